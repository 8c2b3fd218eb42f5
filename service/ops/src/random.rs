//! Values for tests that look random and depend on the seed alone: tests run side by side and share LibTorch's generator,
//! and a draw that nobody can repeat makes a tolerance fail once in a thousand runs.

use tch::{Device, Kind, Tensor};

pub(crate) struct Random {
    seed: f64,
}

impl Random {
    pub(crate) fn new(seed: u32) -> Self {
        Random { seed: seed.into() }
    }

    /// Spread evenly over ±√3, so that their variance is 1. float64
    pub(crate) fn values(&mut self, size: &[i64]) -> Tensor {
        self.seed += 1.0;
        let x =
            Tensor::arange(size.iter().product::<i64>(), (Kind::Double, Device::Cpu)) * 12.9898 + self.seed * 78.233;
        ((x.sin() * 43_758.545_3).frac() * 3f64.sqrt()).view(size)
    }
}
