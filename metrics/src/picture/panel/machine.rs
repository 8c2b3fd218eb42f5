//! Lines about the machine: memory, time, processors, device, disks and storage.

use hone_proto::v1;

use super::{Hue, Look, Series, floats};
use crate::picture::pen::colour;
use crate::run::Run;
use crate::smooth::smoothed;

/// Traffic below this, in MiB a second, is none.
const QUIET_MIB: f64 = 0.1;

/// Bytes in the units that pictures have.
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn line(label: &'static str, place: usize, points: &[(u64, f64)]) -> Series {
    Series { label: Some(label), colour: colour(place), points: floats(points), look: Look::Thin }
}

pub(super) fn memory(run: &Run, hue: &Hue) -> Vec<Series> {
    let peak = run.of_steps(|step| (step.peak_memory_bytes > 0).then(|| gib(step.peak_memory_bytes)));
    if !hue.is_alone {
        return hue.plain(peak);
    }
    vec![
        line("host, peak", 0, &peak),
        line("host", 2, &run.of_usage(|usage| Some(gib(usage.host_memory_bytes)))),
        line("device", 3, &run.of_usage(|usage| usage.device_memory_bytes.map(gib))),
        line("in tensors", 4, &run.of_usage(|usage| usage.device_allocated_bytes.map(gib))),
    ]
}

/// The parts of the steps; of several runs, whole steps.
pub(super) fn time(run: &Run, hue: &Hue) -> Vec<Series> {
    let part = |part: fn(&v1::StepTime) -> f64| smoothed(&run.of_steps(|step| step.time.as_ref().map(part)));
    if !hue.is_alone {
        return hue.plain(smoothed(&run.of_steps(|step| (step.step_seconds > 0.0).then_some(step.step_seconds))));
    }
    vec![
        line("forward", 0, &part(|time| time.forward_seconds)),
        line("backward", 1, &part(|time| time.backward_seconds)),
        line("update", 2, &part(|time| time.update_seconds)),
        line("data", 3, &part(|time| time.data_seconds)),
        line("wait", 4, &part(|time| time.wait_seconds)),
    ]
}

pub(super) fn busy(run: &Run, hue: &Hue) -> Vec<Series> {
    let cores = run.of_usage(|usage| Some(usage.cpu_cores));
    let device = run.of_usage(|usage| usage.device_utilization.map(|share| 100.0 * share));
    match hue.is_alone {
        true => vec![line("cores", 0, &cores), line("device", 3, &device)],
        false => hue.plain(if device.is_empty() { cores } else { device }),
    }
}

pub(super) fn storage(run: &Run, hue: &Hue) -> Vec<Series> {
    let written = run.of_usage(|usage| usage.storage_write_bytes_per_second.map(mib));
    let lines = match hue.is_alone {
        true => vec![
            line("to storage", 0, &written),
            line("from storage", 1, &run.of_usage(|usage| usage.storage_read_bytes_per_second.map(mib))),
            line("to disk", 2, &run.of_usage(|usage| usage.disk_write_bytes_per_second.map(mib))),
            line("from disk", 3, &run.of_usage(|usage| usage.disk_read_bytes_per_second.map(mib))),
        ],
        false => hue.plain(written),
    };
    // What rests is no line.
    lines.into_iter().filter(|line| line.points.iter().any(|point| point.1 >= QUIET_MIB)).collect()
}

pub(super) fn power(run: &Run, hue: &Hue) -> Vec<Series> {
    let watts = run.of_usage(|usage| usage.device_power_watts);
    if !hue.is_alone {
        return hue.plain(watts);
    }
    vec![line("watts", 0, &watts), line("degrees", 4, &run.of_usage(|usage| usage.device_temperature_celsius))]
}
