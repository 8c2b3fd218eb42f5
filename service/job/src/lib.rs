//! The domain of hone, pure: what is asked ([`spec`]), where a job stands ([`state`]), what happened to it ([`event`]),
//! what models make of rows ([`score`]), why it failed ([`failure`]), what a checkpoint promises ([`checkpoint`]) and how things are named ([`id`]).
//!
//! No transport, no storage, no tensors: every other crate may depend on this one, and it depends on none of them.

pub mod answer;
pub mod ask;
pub mod benchmark;
pub mod checkpoint;
pub mod event;
pub mod failure;
pub mod id;
pub mod insight;
pub mod machine;
pub mod score;
pub mod spec;
pub mod state;
