//! Traces and metrics on their way to a collector, and the trace that something belongs to.
//!
//! [`Collector`] says where telemetry goes, [`Traces`] is the way of spans there, [`TraceContext`] is what travels between
//! processes (W3C Trace Context). Whatever the collector does costs nobody anything: what is told waits in a queue of
//! bounded length, which threads of its own empty, and what finds no room is dropped.

mod collector;
mod context;
mod patient;
mod traces;

pub use collector::{Collector, Error, Signal, resource};
pub use context::{HEADER, TraceContext};
pub use traces::Traces;
