//! Whole-system tests: every module drives the real programs the way their users do.

#![allow(clippy::unwrap_used, reason = "all of this is tests, and clippy takes only their functions for such")]

mod benchmark;
mod blocking;
mod buf_curl;
mod canaries;
mod cli;
mod compare;
mod crash;
mod docs;
mod dpo;
mod examples;
mod export;
mod faults;
mod generate;
mod generation;
mod grpcurl;
mod layers;
mod load;
mod local;
mod memory;
mod newer;
mod once;
mod preview;
mod restart;
mod retry;
mod s3;
mod soak;
mod start;
mod supervisor;
mod telemetry;
mod tls;
mod train;
mod transfers;
mod upgrade;
mod uploads;
mod watch;
mod web;
