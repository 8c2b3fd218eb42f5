//! Where tensors live and in which number format: what the machine has and what was asked for in, a choice out.

use hone_job::spec::Precision;
use tch::{Cuda, Device, Kind};

use crate::error::Error;

/// Device and number format of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Where weights and activations are.
    pub device: Device,
    /// Type of base weights and activations; adapters are always float32.
    pub kind: Kind,
}

impl Compute {
    /// The first GPU when there is one, else the CPU, unless `HONE_DEVICE` names another (`cpu`, `cuda`, `cuda:1`).
    ///
    /// Call [`hone_ops::load_cuda`] before, or no GPU is seen.
    pub fn choose(precision: Precision) -> Result<Compute, Error> {
        let gpus = if Cuda::is_available() { Cuda::device_count() } else { 0 };
        let device = device(std::env::var("HONE_DEVICE").ok().as_deref(), gpus)?;
        Ok(Compute { device, kind: kind(precision, device) })
    }

    /// The device's name, such as `cpu` or `cuda:0`.
    pub fn device_name(self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            Device::Cpu => "cpu".to_string(),
            other => format!("{other:?}"),
        }
    }

    /// The number format's name, as in a job's spec.
    pub fn precision_name(self) -> &'static str {
        match self.kind {
            Kind::BFloat16 => "bfloat16",
            _ => "float32",
        }
    }
}

fn device(asked: Option<&str>, gpus: i64) -> Result<Device, Error> {
    let unusable = |what: String| Err(Error::Device(what));
    match asked.filter(|asked| !asked.is_empty()) {
        None if gpus > 0 => Ok(Device::Cuda(0)),
        None | Some("cpu") => Ok(Device::Cpu),
        Some(name) => {
            let index = match name.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|index| index.parse::<usize>().ok()),
                None => None,
            };
            match index {
                Some(index) if (index as i64) < gpus => Ok(Device::Cuda(index)),
                Some(_) => unusable(format!("HONE_DEVICE is {name}, and LibTorch sees {gpus} GPUs")),
                None => unusable(format!("HONE_DEVICE is {name:?}; it may be cpu, cuda or cuda:N")),
            }
        }
    }
}

fn kind(precision: Precision, device: Device) -> Kind {
    match (precision, device) {
        (Precision::Float32, _) | (Precision::Auto, Device::Cpu) => Kind::Float,
        (Precision::Bfloat16, _) | (Precision::Auto, _) => Kind::BFloat16,
    }
}

/// Gives LibTorch a thread for each physical core that the process may use: two on one core's arithmetic only wait for
/// each other. `OMP_NUM_THREADS` is honoured by LibTorch itself. Gives the number in force.
pub fn set_threads() -> i32 {
    if std::env::var_os("OMP_NUM_THREADS").is_none() {
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        let physical = sysinfo::System::physical_core_count().unwrap_or(allowed);
        tch::set_num_threads(i32::try_from(allowed.min(physical)).unwrap_or(1));
    }
    tch::get_num_threads()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_taken_when_there_is_one_and_nothing_else_was_asked() {
        assert_eq!(device(None, 2).unwrap(), Device::Cuda(0));
        assert_eq!(device(Some(""), 0).unwrap(), Device::Cpu);
        assert_eq!(device(Some("cpu"), 2).unwrap(), Device::Cpu);
        assert_eq!(device(Some("cuda"), 1).unwrap(), Device::Cuda(0));
        assert_eq!(device(Some("cuda:1"), 2).unwrap(), Device::Cuda(1));
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_by_name() {
        for (asked, gpus) in [("cuda", 0), ("cuda:2", 2), ("cuda:x", 2), ("cudax", 2), ("tpu", 2), ("CPU", 0)] {
            let error = device(Some(asked), gpus).unwrap_err().to_string();
            assert!(error.contains("HONE_DEVICE") && error.contains(asked), "{error}");
        }
    }

    #[test]
    fn automatic_precision_is_bfloat16_on_a_gpu_only() {
        assert_eq!(kind(Precision::Auto, Device::Cpu), Kind::Float);
        assert_eq!(kind(Precision::Auto, Device::Cuda(0)), Kind::BFloat16);
        assert_eq!(kind(Precision::Bfloat16, Device::Cpu), Kind::BFloat16);
        assert_eq!(kind(Precision::Float32, Device::Cuda(0)), Kind::Float);
    }
}
