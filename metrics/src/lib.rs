//! A run's numbers for people and tools: the events of jobs in; pictures, a summary, series and TensorBoard's event files out.
//!
//! [`run`] gathers what events tell, [`picture`] draws it, [`summary`] says it in a page of JSON, [`scalar`] gives every number
//! with the step it belongs to, and [`tensorboard`] writes these for TensorBoard. The command line draws and writes what its
//! user asks for; the server does the same with what a job leaves in storage.

pub mod picture;
pub mod run;
pub mod scalar;
pub mod smooth;
pub mod summary;
pub mod tensorboard;
