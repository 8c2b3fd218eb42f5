//! What NVIDIA's driver says of a GPU, by its library NVML, which is opened where it is there.

use std::ffi::OsStr;

use hone_job::machine::ResourceUsage;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use tch::Device;

/// Names of the library; machines with the driver alone have the second one only.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so", "libnvidia-ml.so.1"];

/// A GPU.
pub(super) struct Gpu {
    /// None where the driver's library is not there: LibTorch's own numbers are told all the same.
    nvml: Option<Nvml>,
    /// Its number to LibTorch.
    index: usize,
    /// The environment's choice of GPUs, by which LibTorch numbers them.
    visible: Option<String>,
}

impl Gpu {
    /// The GPU that a device is; none of a processor.
    pub(super) fn of(device: Device) -> Option<Gpu> {
        let Device::Cuda(index) = device else { return None };
        let opened = LIBRARIES.iter().find_map(|name| Nvml::builder().lib_path(OsStr::new(name)).init().ok());
        if opened.is_none() {
            tracing::info!("use of the GPU is not told: the driver's library libnvidia-ml.so cannot be opened");
        }
        Some(Gpu { nvml: opened, index, visible: std::env::var("CUDA_VISIBLE_DEVICES").ok() })
    }

    /// Adds what is known of the device. What the driver does not tell is absent.
    pub(super) fn sample(&self, mut usage: ResourceUsage) -> ResourceUsage {
        if let Some(memory) = hone_ops::device_memory(self.index) {
            usage.device_allocated_bytes = Some(memory.allocated);
            usage.device_reserved_bytes = Some(memory.reserved);
        }
        let Some(device) = self.nvml.as_ref().and_then(|nvml| self.device(nvml)) else { return usage };
        if let Ok(memory) = device.memory_info() {
            usage.device_memory_bytes = Some(memory.used);
            usage.device_memory_total_bytes = Some(memory.total);
        }
        usage.device_utilization = device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0);
        usage.device_power_watts = device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0);
        usage.device_temperature_celsius = device.temperature(TemperatureSensor::Gpu).ok().map(f64::from);
        usage
    }

    fn device<'a>(&self, nvml: &'a Nvml) -> Option<nvml_wrapper::Device<'a>> {
        match chosen(self.index, self.visible.as_deref())? {
            Choice::Number(number) => nvml.device_by_index(number).ok(),
            Choice::Uuid(uuid) => nvml.device_by_uuid(uuid).ok(),
        }
    }
}

/// What the driver knows a GPU by.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    Number(u32),
    Uuid(&'a str),
}

/// The GPU that LibTorch knows by a number, where the environment chooses some or all.
fn chosen(index: usize, visible: Option<&str>) -> Option<Choice<'_>> {
    let Some(visible) = visible.filter(|visible| !visible.is_empty()) else {
        return u32::try_from(index).ok().map(Choice::Number);
    };
    let entry = visible.split(',').nth(index)?.trim();
    match entry.parse() {
        Ok(number) => Some(Choice::Number(number)),
        Err(_) => Some(Choice::Uuid(entry)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_no_gpu() {
        assert!(Gpu::of(Device::Cpu).is_none());
    }

    #[test]
    fn a_gpu_without_its_driver_is_told_without_numbers() {
        let gpu = Gpu { nvml: None, index: 7, visible: None };
        assert_eq!(gpu.sample(ResourceUsage::default()), ResourceUsage::default());
    }

    #[test]
    fn the_environment_says_which_gpu_has_which_number() {
        assert_eq!(chosen(1, None), Some(Choice::Number(1)));
        assert_eq!(chosen(1, Some("")), Some(Choice::Number(1)));
        assert_eq!(chosen(1, Some("5, 3")), Some(Choice::Number(3)));
        assert_eq!(chosen(0, Some("GPU-8f1")), Some(Choice::Uuid("GPU-8f1")));
        assert_eq!(chosen(2, Some("5,3")), None);
    }
}
