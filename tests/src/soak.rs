//! A run under fire: random kills, restarts, pauses and storage faults, and in the end the very weights of a run that nothing
//! happened to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use futures::StreamExt;
use hone_client::v1::{self, JobState, job_event::Event};
use hone_client::{JobHandle, Outcome};

use crate::{Bucket, Proxy, SeaweedFs, Server, Setup, events_of, signal, soon};

mod workload;

pub use workload::Workload;

/// Something that happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to the trainer.
    KillTrainer,
    /// SIGKILL to the server, which is started again; the trainer goes on meanwhile.
    KillServer,
    /// SIGKILL to both.
    KillBoth,
    /// SIGTERM to the trainer, as on a drained node.
    StopTrainer,
    /// SIGTERM to the server, which is started again.
    StopServer,
    /// A pause, and then a resume.
    Pause,
    /// Storage refuses connections for some steps.
    StorageAway,
    /// Every connection to storage is cut at once.
    StorageCut,
}

impl Fault {
    const ALL: [Fault; 8] = [
        Fault::KillTrainer,
        Fault::KillServer,
        Fault::KillBoth,
        Fault::StopTrainer,
        Fault::StopServer,
        Fault::Pause,
        Fault::StorageAway,
        Fault::StorageCut,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::KillTrainer => "kill -9 of the trainer",
            Fault::KillServer => "kill -9 of the server, started again",
            Fault::KillBoth => "kill -9 of both",
            Fault::StopTrainer => "SIGTERM to the trainer",
            Fault::StopServer => "SIGTERM to the server, started again",
            Fault::Pause => "pause and resume",
            Fault::StorageAway => "storage refuses connections for some steps",
            Fault::StorageCut => "all connections to storage cut",
        })
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    /// The faults, in order, with the step at which each happened.
    pub faults: Vec<(Fault, u64)>,
    /// Steps of the run.
    pub steps: u64,
    /// Steps that were taken more than once, since a fault lost them.
    pub steps_again: u64,
    /// Attempts that it took.
    pub attempts: u32,
    /// Checkpoints announced.
    pub checkpoints: usize,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// What differs from the unbroken run; empty when nothing does.
    pub differences: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = BTreeMap::<Fault, usize>::new();
        self.faults.iter().for_each(|(fault, _)| *counts.entry(*fault).or_default() += 1);
        writeln!(f, "| fault | times |\n| --- | ---: |")?;
        for (fault, count) in &counts {
            writeln!(f, "| {fault} | {count} |")?;
        }
        writeln!(
            f,
            "\n{} faults in a run of {} steps, over {} attempts and {} checkpoints, in {:.0} s; {} steps were taken again.",
            self.faults.len(),
            self.steps,
            self.attempts,
            self.checkpoints,
            self.seconds,
            self.steps_again,
        )?;
        match self.differences.is_empty() {
            true => writeln!(
                f,
                "Every loss, the final adapter and the optimizer's state equal those of the unbroken run, bit for bit."
            ),
            false => writeln!(f, "Differs from the unbroken run: {}", self.differences.join("; ")),
        }
    }
}

/// Lets `num_faults` happen to a run, chosen by `seed`, and compares its end with that of an unbroken one. `tell` hears of each
/// fault as it happens, with the step that the run has reached.
pub async fn soak(workload: Workload, num_faults: usize, seed: u64, tell: impl Fn(Fault, u64)) -> Report {
    let start = Instant::now();
    let mut run = Run::start(workload, seed).await;
    let mut faults = Vec::new();
    let mut chance = Chance(seed);
    for _ in 0..num_faults {
        let steps = 1 + chance.next(7);
        let step = run.after_more_steps(steps).await;
        let fault = Fault::ALL[chance.next(Fault::ALL.len() as u64) as usize];
        tell(fault, step);
        run.suffer(fault).await;
        faults.push((fault, step));
    }
    let steps = run.end().await;
    let unbroken = run.unbroken(steps).await;
    let (events, expected) = (events_of(&run.job().await).await, events_of(&unbroken).await);
    let mut differences = Vec::new();
    let (losses, steps_again) = losses(&events, &mut differences);
    let (expected_losses, _) = self::losses(&expected, &mut differences);
    if losses != expected_losses {
        differences.push("losses".into());
    }
    let (found, wanted) = (digests(&run.job().await).await, digests(&unbroken).await);
    for (name, digest) in &wanted {
        if found.get(name) != Some(digest) {
            differences.push(name.clone());
        }
    }
    let saved = |event: &&v1::JobEvent| matches!(event.event, Some(Event::CheckpointSaved(_)));
    Report {
        faults,
        steps,
        steps_again,
        attempts: run.job().await.get().await.expect("a job").attempt,
        checkpoints: events.iter().filter(saved).count(),
        seconds: start.elapsed().as_secs_f64(),
        differences,
    }
}

/// The run that faults happen to.
struct Run {
    workload: Workload,
    setup: Setup,
    server: Option<Server>,
    proxy: Proxy,
    _bucket: Bucket,
    job_id: String,
    step: u64,
}

impl Run {
    async fn start(workload: Workload, seed: u64) -> Run {
        let bucket = SeaweedFs::bucket(&format!("soak-{workload}-{seed}")).await;
        let proxy = Proxy::before(bucket.endpoint().trim_start_matches("http://")).await;
        let environment = bucket.environment_through(&proxy.url());
        let setup = Setup::default().with_real_trainer().flag("--storage-root", bucket.uri()).environment(environment);
        let server = setup.start().await;
        // Trainers that live on dial the address that they know.
        let setup = setup.listening_on(server.address());
        let job = server.client().await.create_job(workload.spec(1_000_000)).await.expect("the job is accepted");
        let job_id = job.id().to_owned();
        Run { workload, setup, server: Some(server), proxy, _bucket: bucket, job_id, step: 0 }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs between two faults")
    }

    async fn job(&self) -> JobHandle {
        self.server().client().await.job(self.job_id.clone())
    }

    /// Waits until the run has come so much further than it ever was. Gives the step that it reached.
    async fn after_more_steps(&mut self, steps: u64) -> u64 {
        self.after_more_steps_or(steps, |_| false).await
    }

    /// The same, or until something happens.
    async fn after_more_steps_or(&mut self, steps: u64, ends: impl Fn(&Event) -> bool) -> u64 {
        let target = self.step + steps;
        let job = self.job().await;
        let after = job.get().await.expect("a job").last_sequence;
        let mut events = job.watch_after(after);
        while self.step < target {
            let event =
                soon("the next step", events.next()).await.expect("the job goes on").expect("the server answers");
            match event.event {
                Some(Event::TrainStep(step)) => self.step = self.step.max(step.step),
                Some(Event::StateChanged(change)) if change.to() == JobState::Failed => panic!("{}", change.detail),
                Some(other) if ends(&other) => break,
                _ => {}
            }
        }
        self.step
    }

    async fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::KillTrainer => self.signal_trainers("KILL"),
            Fault::StopTrainer => self.signal_trainers("TERM"),
            Fault::KillServer => self.restart(None).await,
            Fault::KillBoth => self.restart(Some("KILL")).await,
            Fault::StopServer => {
                let server = self.server.take().expect("it runs");
                assert!(server.stop().await.success(), "the server leaves in order");
                self.server = Some(self.setup.start().await);
            }
            Fault::Pause => {
                self.pause().await;
                self.job().await.resume().await.expect("it goes on");
            }
            Fault::StorageAway => {
                self.proxy.refuse(true);
                self.proxy.cut();
                // A trainer that was told to leave by the fault before may leave only now; the next one takes no step while it
                // cannot read its checkpoint. One that has saved often waits for storage instead of taking steps.
                let takes_none = |event: &Event| match event {
                    Event::Failure(_) => true,
                    Event::Phase(phase) => phase.name == "waiting_for_storage",
                    _ => false,
                };
                self.after_more_steps_or(3, takes_none).await;
                self.proxy.refuse(false);
            }
            Fault::StorageCut => self.proxy.cut(),
        }
    }

    async fn restart(&mut self, trainers: Option<&str>) {
        let server = self.server.take().expect("it runs");
        let pids = server.trainers_of(&self.job_id);
        let setup = server.kill().await;
        drop(setup);
        if let Some(name) = trainers {
            for pid in pids {
                signal(pid, name);
            }
        }
        self.server = Some(self.setup.start().await);
    }

    fn signal_trainers(&self, name: &str) {
        for pid in self.server().trainers_of(&self.job_id) {
            signal(pid, name);
        }
    }

    async fn pause(&self) {
        let job = self.job().await;
        let after = job.get().await.expect("a job").last_sequence;
        job.pause().await.expect("it can be paused");
        let mut events = job.watch_after(after);
        loop {
            let event = soon("the pause", events.next()).await.expect("the job goes on").expect("the server answers");
            if matches!(event.event, Some(Event::StateChanged(change)) if change.to() == JobState::Paused) {
                return;
            }
        }
    }

    /// Ends the run a few steps after where it stands. Gives its length.
    async fn end(&mut self) -> u64 {
        self.pause().await;
        let job = self.job().await;
        let steps = job.get().await.expect("a job").step + 5;
        let mut own = job.get().await.expect("a job").spec.expect("a spec");
        workload::set_steps(&mut own, steps);
        job.resume_with(own).await.expect("only the length changed");
        let finished = soon("the end", job.wait()).await.expect("the server answers");
        assert!(matches!(finished.outcome, Outcome::Succeeded(_)), "{:?}", finished.outcome);
        steps
    }

    async fn unbroken(&self, steps: u64) -> JobHandle {
        let job =
            self.server().client().await.create_job(self.workload.spec(steps)).await.expect("the job is accepted");
        let finished = tokio::time::timeout(Duration::from_secs(1800), job.wait()).await.expect("it ends");
        assert!(matches!(finished.expect("the server answers").outcome, Outcome::Succeeded(_)));
        job
    }
}

/// The loss of each step, and how many were taken again; what came out otherwise the second time is a difference.
fn losses(events: &[v1::JobEvent], differences: &mut Vec<String>) -> (Vec<f64>, u64) {
    let mut losses: BTreeMap<u64, f64> = BTreeMap::new();
    let mut again = 0;
    for event in events {
        if let Some(Event::TrainStep(step)) = &event.event {
            let loss = step.loss.unwrap_or(f64::NAN);
            if let Some(before) = losses.insert(step.step, loss) {
                again += 1;
                if before != loss {
                    differences.push(format!("loss of step {} when it was taken again", step.step));
                }
            }
        }
    }
    let gap = (1..=losses.len() as u64).find(|step| !losses.contains_key(step));
    differences.extend(gap.map(|step| format!("step {step} is missing")));
    (losses.into_values().collect(), again)
}

/// Digests of the last checkpoint's weights and moments, by file.
async fn digests(job: &JobHandle) -> BTreeMap<String, String> {
    let checkpoint = job.last_checkpoint().await.expect("a checkpoint");
    let files = checkpoint.files.into_iter().filter(|file| file.name.ends_with(".safetensors"));
    files.map(|file| (file.name, file.sha256)).collect()
}

/// Numbers that look random and follow from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    /// A number below `limit`.
    fn next(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}
