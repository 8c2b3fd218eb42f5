//! What the time of a step goes to.

use std::time::{Duration, Instant};

use hone_job::machine::StepTime;
use tch::{Cuda, Device};

/// A GPU works behind the thread that gives it work. To tell parts apart it must be waited for, which costs a little: that is
/// done in one of so many steps.
const GPU_EVERY: u64 = 10;

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Choosing and packing rows.
    Data,
    /// The model and the loss.
    Forward,
    /// Gradients, and how noisy they are.
    Backward,
    /// Norm, clipping and the optimizer.
    Update,
}

/// Measures the parts of one step.
#[derive(Debug)]
pub(super) struct StepClock {
    /// Where the parts are told apart.
    told: bool,
    gpu: Option<i64>,
    parts: [Duration; 4],
    mark: Instant,
}

impl StepClock {
    /// Starts with a step of this number, from 1.
    pub(super) fn start(step: u64, device: Device) -> StepClock {
        let gpu = match device {
            Device::Cuda(index) => Some(index as i64),
            _ => None,
        };
        let told = gpu.is_none() || step.is_multiple_of(GPU_EVERY);
        StepClock { told, gpu, parts: Default::default(), mark: Instant::now() }
    }

    /// What was done since the last call was this part.
    pub(super) fn lap(&mut self, part: Part) {
        if !self.told {
            return;
        }
        if let Some(gpu) = self.gpu {
            Cuda::synchronize(gpu);
        }
        let now = Instant::now();
        self.parts[part as usize] += now - std::mem::replace(&mut self.mark, now);
    }

    /// The parts, and the time that was waited before the step.
    pub(super) fn told(&self, waited: Duration) -> Option<StepTime> {
        let seconds = |part: Part| self.parts[part as usize].as_secs_f64();
        self.told.then(|| StepTime {
            data_seconds: seconds(Part::Data),
            forward_seconds: seconds(Part::Forward),
            backward_seconds: seconds(Part::Backward),
            update_seconds: seconds(Part::Update),
            wait_seconds: waited.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_make_up_the_time_and_each_lap_belongs_to_one() {
        let start = Instant::now();
        let mut clock = StepClock::start(1, Device::Cpu);
        for part in [Part::Data, Part::Forward, Part::Backward, Part::Forward, Part::Backward, Part::Update] {
            std::hint::black_box((0..1000).sum::<u64>());
            clock.lap(part);
        }
        let whole = start.elapsed().as_secs_f64();
        let time = clock.told(Duration::from_millis(250)).expect("a processor is always told");
        let parts = [time.data_seconds, time.forward_seconds, time.backward_seconds, time.update_seconds];
        assert!(parts.iter().all(|seconds| *seconds > 0.0), "{time:?}");
        assert!(parts.iter().sum::<f64>() <= whole, "{time:?} in {whole} s");
        assert_eq!(time.wait_seconds, 0.25);
    }

    #[test]
    fn a_gpu_is_waited_for_in_every_tenth_step() {
        let told = |step| StepClock::start(step, Device::Cuda(0)).told(Duration::ZERO).is_some();
        assert_eq!([1, 9, 10, 11, 20].map(told), [false, false, true, false, true]);
    }
}
