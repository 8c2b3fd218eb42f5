//! What a micro-batch keeps between its passes: everything, or only what goes into each layer.

use hone_job::spec::ActivationCheckpointing;
use sysinfo::System;
use tch::Device;

use crate::model::Decoder;

/// How much may be kept. The result is the same to the bit whatever it is, so it may depend on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activations {
    /// Bytes of a micro-batch; none means any number.
    most: Option<u64>,
    /// Whether this is up to the machine, or was said.
    is_auto: bool,
}

impl Activations {
    /// As the spec says; automatic means up to half of the memory that is free now, which is known of the host's alone.
    pub(super) fn new(checkpointing: ActivationCheckpointing, device: Device) -> Activations {
        let most = match checkpointing {
            ActivationCheckpointing::On => Some(0),
            ActivationCheckpointing::Off => None,
            ActivationCheckpointing::Auto if device == Device::Cpu => free_bytes().map(|free| free / 2),
            ActivationCheckpointing::Auto => None,
        };
        Activations { most, is_auto: checkpointing == ActivationCheckpointing::Auto }
    }

    /// Keeps as little as can be from now on, where that is not what was asked for otherwise. Says whether that changes
    /// anything.
    pub(super) fn keep_least(&mut self) -> bool {
        let changes = self.is_auto && self.most != Some(0);
        if changes {
            self.most = Some(0);
        }
        changes
    }

    /// Whether a micro-batch of so many tokens is to keep only what goes into its layers.
    pub(super) fn are_recomputed(self, model: &Decoder, tokens: u64) -> bool {
        self.most.is_some_and(|most| model.activation_bytes(tokens) > most)
    }
}

/// Memory that this process may still take: the machine's, or its control group's where that is less.
fn free_bytes() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let of_group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Some(system.available_memory().min(of_group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, tiny};

    #[test]
    fn what_does_not_fit_is_made_again() {
        let model = tiny::model(Architecture::Llama);
        let are_recomputed =
            |checkpointing, tokens| Activations::new(checkpointing, Device::Cpu).are_recomputed(&model, tokens);
        assert!(are_recomputed(ActivationCheckpointing::On, 1));
        assert!(!are_recomputed(ActivationCheckpointing::Off, u64::from(u32::MAX)));
        assert!(!are_recomputed(ActivationCheckpointing::Auto, 1));
        assert!(are_recomputed(ActivationCheckpointing::Auto, 1 << 40), "no machine has so much memory");
    }
}
