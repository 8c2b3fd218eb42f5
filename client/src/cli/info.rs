//! `info`: the server itself.

use hone_client::{Client, v1};

use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::{bytes, printable};
use crate::output::Output;

pub(crate) async fn run(client: &Client, out: &Output) -> Result<Ending, Failure> {
    let info = client.server_info().await?;
    out.show("GetServerInfoResponse", &info, || text(&info, &client.options().endpoint))?;
    Ok(Ending::Done)
}

fn text(info: &v1::GetServerInfoResponse, endpoint: &str) -> String {
    let mut lines = vec![format!("hone {} at {endpoint}", printable(&info.version))];
    let mut line = |heading: &str, text: String| lines.push(format!("{heading:<12} {text}"));
    // Told to admins alone.
    if !info.storage_root.is_empty() {
        line("storage", printable(&info.storage_root));
    }
    if info.devices.is_empty() {
        line("devices", "not known yet: the trainer has not answered".to_owned());
    }
    for device in &info.devices {
        let memory = bytes(device.memory_bytes);
        line("device", format!("{}: {}, {memory}", printable(&device.name), printable(&device.description)));
    }
    if !info.libtorch_version.is_empty() {
        line("LibTorch", printable(&info.libtorch_version));
    }
    if !info.attention_kernels.is_empty() {
        line("attention", printable(&info.attention_kernels.join(", ")));
    }
    line("jobs at once", info.max_running_jobs.to_string());
    if let Some(limits) = &info.limits {
        let (dataset, model) = (bytes(limits.max_dataset_bytes), bytes(limits.max_model_bytes));
        let message = bytes(limits.max_message_bytes);
        let waiting = limits.max_queued_jobs;
        line("limits", format!("dataset {dataset}, model {model}, message {message}, {waiting} jobs waiting"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_are_not_known_yet_are_told_so() {
        let mut info = v1::GetServerInfoResponse {
            version: "0.1.0".into(),
            storage_root: "file:///s".into(),
            max_running_jobs: 1,
            ..Default::default()
        };
        let waiting = "\
hone 0.1.0 at http://h:1
storage      file:///s
devices      not known yet: the trainer has not answered
jobs at once 1";
        assert_eq!(text(&info, "http://h:1"), waiting);
        info.devices =
            vec![v1::Device { name: "cpu".into(), description: "2 cores".into(), memory_bytes: 8_000_000_000 }];
        assert!(text(&info, "http://h:1").contains("\ndevice       cpu: 2 cores, 8.0 GB\n"));
    }
}
