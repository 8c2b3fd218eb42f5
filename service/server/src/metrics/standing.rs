//! How jobs stand, which the store knows: looked at before somebody reads.

use std::sync::Arc;
use std::time::Duration;

use hone_job::state::State;
use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::jobs::Jobs;

/// How often it is looked for a collector, which is sent to when it suits the exporter.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Looks at the jobs.
#[derive(Clone)]
pub(crate) struct Standing {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) metrics: Metrics,
}

impl Standing {
    /// Looks now. A store that fails leaves the figures as they were, and says so itself elsewhere.
    pub(crate) async fn look(&self) {
        let Ok(tally) = self.jobs.tally().await else { return };
        for state in State::ALL {
            let count = tally.states.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
            self.metrics.0.jobs.record(count, &[KeyValue::new("state", state.to_string())]);
        }
        let age = tally.waiting_since.map(|since| (self.jobs.now() - since).to_std().unwrap_or_default());
        self.metrics.0.queue_age.record(age.unwrap_or_default().as_secs_f64(), &[]);
    }

    /// Keeps looking until the server stops.
    pub(crate) async fn keep_looking(self, stopping: CancellationToken) {
        loop {
            self.look().await;
            if stopping.run_until_cancelled(tokio::time::sleep(LOOK_AGAIN)).await.is_none() {
                return;
            }
        }
    }
}
