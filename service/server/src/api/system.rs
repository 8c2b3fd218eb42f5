//! SystemService.

use std::sync::{Arc, OnceLock};

use hone_proto::v1 as pb;
use hone_proto::v1::system_service_server::SystemService;
use tonic::{Request, Response, Status};

use super::gate::caller;
use crate::caller::Role;
use crate::config::Limits;
use crate::doctor;

pub(super) struct SystemApi {
    pub(super) limits: Limits,
    pub(super) storage_root: String,
    pub(super) trainer: Arc<OnceLock<doctor::Report>>,
}

#[tonic::async_trait]
impl SystemService for SystemApi {
    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        let is_admin = caller(&request)?.role == Role::Admin;
        let trainer = self.trainer.get().cloned().unwrap_or_default();
        let devices = trainer.devices.into_iter().map(|device| pb::Device {
            name: device.name,
            description: device.description,
            memory_bytes: device.memory_bytes,
        });
        Ok(Response::new(pb::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            devices: devices.collect(),
            attention_kernels: trainer.attention_kernels,
            limits: Some(pb::Limits {
                max_dataset_bytes: self.limits.max_dataset_bytes,
                max_model_bytes: self.limits.max_model_bytes,
                max_message_bytes: super::MAX_MESSAGE_BYTES as u64,
                max_queued_jobs: self.limits.max_queued_jobs,
            }),
            storage_root: if is_admin { self.storage_root.clone() } else { String::new() },
            libtorch_version: trainer.libtorch_version,
            max_running_jobs: self.limits.max_running_jobs,
        }))
    }
}
