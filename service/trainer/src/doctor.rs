//! What this machine and its LibTorch can do: nothing in, a report for people and programs out.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hone_ops::{Document, SoftCap};
use serde::Serialize;
use tch::{Cuda, Device, Kind, Tensor};

use crate::device;
use crate::error::Error;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of hone.
    pub version: &'static str,
    /// Version of LibTorch, as it says itself.
    pub libtorch_version: String,
    /// LibTorch's libraries in this process.
    pub libraries: Vec<PathBuf>,
    /// Whether LibTorch's CUDA library is loaded; says nothing about a GPU.
    pub cuda: bool,
    /// Threads that LibTorch computes with on the CPU.
    pub threads: i32,
    /// What computes.
    pub devices: Vec<DeviceInfo>,
    /// Attention kernels that training would use, each tried.
    pub attention_kernels: Vec<String>,
    /// Rate of matrix multiplication; empty when it was not measured.
    pub gemm: Vec<GemmRate>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// A device that computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// Name, such as `cpu` or `cuda:0`.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Its memory, in bytes; 0 when unknown.
    pub memory_bytes: u64,
}

/// How quickly square matrices are multiplied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GemmRate {
    /// Name of the device.
    pub device: String,
    /// Number format.
    pub dtype: &'static str,
    /// Billions of floating-point operations a second: 2 n³ for a product of two n × n matrices; median of several.
    pub gflops: f64,
}

/// Looks at everything; `quick` leaves out the measurements, which take a second or two.
pub fn examine(quick: bool) -> Result<Report, Error> {
    let mut problems = Vec::new();
    let (libraries, cuda) = match hone_ops::load_cuda() {
        Ok(libraries) => (libraries.loaded, libraries.cuda),
        Err(error) => {
            problems.push(error.to_string());
            (Vec::new(), false)
        }
    };
    let threads = device::set_threads();
    let gpus = if cuda && Cuda::is_available() { Cuda::device_count() } else { 0 };
    if cuda && gpus == 0 {
        problems.push("LibTorch's CUDA library is loaded, but it sees no GPU: training will run on the CPU".into());
    }
    let all = [Device::Cpu].into_iter().chain((0..gpus as usize).map(Device::Cuda));
    let gemm = if quick { Vec::new() } else { all.flat_map(gemm_rates).collect() };
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        libtorch_version: hone_ops::libtorch_version(),
        libraries,
        cuda,
        threads,
        devices: [vec![cpu()], self::gpus(gpus)].concat(),
        attention_kernels: attention_kernels(gpus > 0),
        gemm,
        problems,
    })
}

fn cpu() -> DeviceInfo {
    use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
    let kind =
        RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind).ok();
    let cpus = system.as_ref().map_or(&[][..], System::cpus);
    let brand = cpus.first().map(|cpu| cpu.brand().trim()).filter(|brand| !brand.is_empty());
    let cores = System::physical_core_count().unwrap_or(cpus.len());
    // In a container, its own limit counts.
    let installed = system.as_ref().map_or(0, System::total_memory);
    let limit = system.as_ref().and_then(System::cgroup_limits).map(|limits| limits.total_memory);
    DeviceInfo {
        name: "cpu".into(),
        description: format!("{}, {cores} cores", brand.unwrap_or(std::env::consts::ARCH)),
        memory_bytes: limit.filter(|limit| *limit > 0).map_or(installed, |limit| limit.min(installed)),
    }
}

/// GPUs in LibTorch's order. Their names and memory come from the driver's own tool, where it is installed.
fn gpus(count: i64) -> Vec<DeviceInfo> {
    let described = if count > 0 { nvidia_smi() } else { Vec::new() };
    (0..count as usize)
        .map(|index| {
            let (description, memory_bytes) = described.get(index).cloned().unwrap_or(("CUDA GPU".into(), 0));
            DeviceInfo { name: format!("cuda:{index}"), description, memory_bytes }
        })
        .collect()
}

fn nvidia_smi() -> Vec<(String, u64)> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]);
    // The tool shows every GPU; the process sees these, in this order.
    if let Some(visible) = std::env::var("CUDA_VISIBLE_DEVICES").ok().filter(|visible| !visible.is_empty()) {
        command.args(["-i", &visible]);
    }
    match command.output() {
        Ok(output) if output.status.success() => parse_nvidia_smi(&String::from_utf8_lossy(&output.stdout)),
        _ => Vec::new(),
    }
}

/// Lines of `name, mebibytes`.
fn parse_nvidia_smi(text: &str) -> Vec<(String, u64)> {
    let parse = |line: &str| {
        let (name, mebibytes) = line.rsplit_once(',')?;
        Some((name.trim().to_string(), mebibytes.trim().parse::<u64>().ok()? << 20))
    };
    text.lines().filter_map(parse).collect()
}

/// The kernels that [`crate::model::Decoder::forward`] chooses among, in so far as they run here.
fn attention_kernels(gpu: bool) -> Vec<String> {
    let mut kernels = Vec::new();
    let mut try_kernel = |name: &str, run: &dyn Fn() -> Tensor| {
        // A kernel that is not there panics; the hook says why on stderr.
        let runs = catch_unwind(AssertUnwindSafe(|| run().to_kind(Kind::Float).sum(Kind::Float).double_value(&[])));
        if runs.is_ok_and(f64::is_finite) {
            kernels.push(name.to_string());
        }
    };
    let heads = |kind, device| Tensor::ones([6, 2, 16], (kind, device));
    let documents = [Document { start: 0, len: 4, prefix: None }, Document { start: 4, len: 2, prefix: None }];
    for (name, kind) in [("cpu flash (float32)", Kind::Float), ("cpu flash (bfloat16)", Kind::BFloat16)] {
        let x = heads(kind, Device::Cpu);
        try_kernel(name, &|| hone_ops::document_attention(&x, &x, &x, &documents, None));
    }
    let capped = |device| {
        let x = heads(Kind::Float, device).unsqueeze(0);
        hone_ops::capped_attention(&x, &x, &x, SoftCap { scale: 0.25, cap: 50.0 }, None, 4)
    };
    try_kernel("cpu soft-capped (float32)", &|| capped(Device::Cpu));
    if gpu {
        let device = Device::Cuda(0);
        try_kernel("cuda soft-capped (float32)", &|| capped(device));
        try_kernel("cuda varlen flash (bfloat16)", &|| {
            let x = heads(Kind::BFloat16, device);
            let starts = Tensor::from_slice(&[0i32, 4, 6]).to_device(device);
            hone_ops::varlen_flash(&x, &x, &x, (&starts, 4), (&starts, 4), None)
        });
        try_kernel("cuda document by document (float32)", &|| {
            let x = heads(Kind::Float, device).transpose(0, 1);
            Tensor::scaled_dot_product_attention(&x, &x, &x, None::<&Tensor>, 0.0, true, None, false)
        });
        try_kernel("cuda efficient (float32)", &|| {
            let x = heads(Kind::Float, device).transpose(0, 1).unsqueeze(0);
            hone_ops::efficient_attention(&x, &x, &x, None, true)
        });
    }
    kernels
}

/// Timed products; the median of them is told.
const REPEATS: usize = 5;
/// Sizes to measure at: the first at which a product takes long enough for the clock, or the last.
const SIZES: [i64; 4] = [512, 1024, 2048, 4096];
const LONG_ENOUGH: Duration = Duration::from_millis(20);

fn gemm_rates(device: Device) -> Vec<GemmRate> {
    let name = match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_string(),
    };
    let rate = |(kind, dtype)| GemmRate { device: name.clone(), dtype, gflops: gflops(device, kind) };
    [(Kind::Float, "float32"), (Kind::BFloat16, "bfloat16")].map(rate).into()
}

fn gflops(device: Device, kind: Kind) -> f64 {
    let mut size = SIZES[0];
    for next in SIZES {
        size = next;
        // The first product also pays for memory, threads and the choice of a kernel.
        product_time(size, device, kind);
        if product_time(size, device, kind) >= LONG_ENOUGH {
            break;
        }
    }
    let mut times: Vec<Duration> = (0..REPEATS).map(|_| product_time(size, device, kind)).collect();
    times.sort();
    2.0 * (size as f64).powi(3) / times[REPEATS / 2].as_secs_f64() / 1e9
}

fn product_time(size: i64, device: Device, kind: Kind) -> Duration {
    let [a, b] = [0; 2].map(|_| Tensor::ones([size, size], (kind, device)));
    let wait = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    wait();
    let start = Instant::now();
    let _product = a.matmul(&b);
    wait();
    start.elapsed()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "hone {}", self.version)?;
        let cuda = if self.cuda { "with CUDA" } else { "without CUDA" };
        writeln!(f, "LibTorch {} ({cuda}, {} threads)", self.libtorch_version, self.threads)?;
        for library in &self.libraries {
            writeln!(f, "  {}", library.display())?;
        }
        writeln!(f, "devices")?;
        for DeviceInfo { name, description, memory_bytes } in &self.devices {
            let gibibytes = *memory_bytes as f64 / f64::from(1 << 30);
            writeln!(f, "  {name:<8} {description}, {gibibytes:.1} GiB")?;
        }
        writeln!(f, "attention kernels")?;
        for kernel in &self.attention_kernels {
            writeln!(f, "  {kernel}")?;
        }
        if !self.gemm.is_empty() {
            writeln!(f, "matrix multiplication")?;
        }
        for GemmRate { device, dtype, gflops } in &self.gemm {
            writeln!(f, "  {device:<8} {dtype:<9} {gflops:8.1} GFLOP/s")?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_look_finds_libtorch_the_cpu_and_its_kernels() {
        let report = examine(true).unwrap();
        assert!(report.libraries.iter().any(|path| path.ends_with("libtorch_cpu.so")), "{report:?}");
        assert_eq!(report.devices[0].name, "cpu");
        assert!(report.devices[0].memory_bytes > 1 << 20, "{report:?}");
        for kernel in ["cpu flash (float32)", "cpu flash (bfloat16)", "cpu soft-capped (float32)"] {
            assert!(report.attention_kernels.iter().any(|name| name == kernel), "{report:?}");
        }
        assert_eq!(report.gemm, []);
        let text = report.to_string();
        assert!(text.contains(&format!("LibTorch {}", report.libtorch_version)) && text.contains("libtorch_cpu.so"));
    }

    #[test]
    fn the_json_has_the_names_that_the_server_reads() {
        let json = serde_json::to_value(examine(true).unwrap()).unwrap();
        for key in ["version", "libtorch_version", "libraries", "cuda", "devices", "attention_kernels", "gemm"] {
            assert!(json.get(key).is_some(), "{key}: {json}");
        }
        for key in ["name", "description", "memory_bytes"] {
            assert!(json["devices"][0].get(key).is_some(), "{key}: {json}");
        }
    }

    #[test]
    fn rates_are_measured_for_both_formats() {
        let rates = gemm_rates(Device::Cpu);
        assert_eq!(rates.iter().map(|rate| rate.dtype).collect::<Vec<_>>(), ["float32", "bfloat16"]);
        assert!(rates.iter().all(|rate| rate.gflops.is_finite() && rate.gflops > 0.0), "{rates:?}");
    }

    #[test]
    fn the_drivers_tool_is_understood() {
        let text = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA A10, 23028\n[N/A], [N/A]\n";
        let gpus = parse_nvidia_smi(text);
        assert_eq!(gpus, [("NVIDIA H100 80GB HBM3".into(), 81559 << 20), ("NVIDIA A10".into(), 23028 << 20)]);
    }
}
