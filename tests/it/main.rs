//! Whole-system tests: every module drives the real programs the way their users do.

#![allow(clippy::unwrap_used, reason = "all of this is tests, and clippy takes only their functions for such")]

mod layers;
