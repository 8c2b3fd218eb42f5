//! From gradients to weights: how long the step is ([`Schedule`]), how long the gradient may be ([`clip`]), and the
//! update itself ([`AdamW`]). All work on one flat vector that holds every trained value.

mod adamw;
mod clip;
mod schedule;

pub use adamw::AdamW;
pub use clip::clip;
pub use schedule::Schedule;
