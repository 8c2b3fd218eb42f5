//! From gradients to weights: how long the step is ([`Schedule`], [`Plateau`]), how long the gradient may be ([`clip`]), and
//! the update itself ([`Optimizer`]). All work on one flat vector that holds every trained value.

mod adamw;
mod block8;
mod clip;
mod lion;
mod moment;
mod noise_scale;
mod optimizer;
mod plateau;
mod schedule;
mod sgd;

pub use block8::Block8;
pub use clip::clip;
pub use moment::Moment;
pub use noise_scale::{NoiseEstimate, NoiseProbe, NoiseSample, NoiseScale};
pub use optimizer::{Group, Optimizer};
pub use plateau::{Plateau, acting_evaluations};
pub use schedule::Schedule;
