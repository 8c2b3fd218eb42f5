//! Much at once: a thousand watchers on a run that goes on, a long queue, large uploads; what everybody got, how late, and what
//! it cost the run and the server.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use hone_client::{JobHandle, v1};
use v1::job_event::Event;
use v1::job_service_client::JobServiceClient;

use crate::{Server, Setup, fixture_model, repository, sft, uri};

/// Watchers that share a connection.
const WATCHERS_PER_CONNECTION: usize = 50;

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Watchers on the run, from its first event on.
    pub watchers: usize,
    /// Jobs that are put into the queue meanwhile.
    pub jobs: usize,
    /// Uploads at once.
    pub uploads: usize,
    /// Size of each.
    pub upload_bytes: u64,
    /// Steps of the run.
    pub steps: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// What it was.
    pub load: Load,
    /// Events of the run, of which every watcher got each.
    pub events: usize,
    /// From the trainer's clock to the watcher's hand: median, 99th percentile, longest.
    pub delays: [Duration; 3],
    /// Median time of a step alone and under load.
    pub step_seconds: [f64; 2],
    /// The server's own time on a processor for an event and a watcher, all that it did meanwhile included.
    pub processor: Duration,
    /// Creation of a job: median and longest.
    pub creation: [Duration; 2],
    /// Peak memory of the server before, while it was watched, and while it took the uploads; in bytes.
    pub server_memory: [u64; 3],
    /// Bytes of uploads a second, all together.
    pub upload_rate: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { watchers, jobs, uploads, upload_bytes, steps } = self.load;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let [median, p99, longest] = self.delays.map(ms);
        let [alone, loaded] = self.step_seconds.map(|seconds| seconds * 1e3);
        let [creation, longest_creation] = self.creation.map(ms);
        let [before, watched, uploading] = self.server_memory.map(|bytes| bytes >> 20);
        let rows = [
            (
                format!("{watchers} watchers of a run of {steps} steps"),
                format!("each got all {} events once, in order", self.events),
            ),
            (
                "from the trainer to a watcher".into(),
                format!("median {median:.0} ms, 99% within {p99:.0} ms, longest {longest:.0} ms"),
            ),
            (
                "the server's processor time for an event and a watcher".into(),
                format!("{:.0} µs", ms(self.processor) * 1e3),
            ),
            ("median step of the run".into(), format!("{alone:.0} ms alone, {loaded:.0} ms under it")),
            (
                format!("{jobs} jobs put into the queue meanwhile"),
                format!("{creation:.0} ms each, longest {longest_creation:.0} ms"),
            ),
            (
                format!("{uploads} uploads of {} MiB at once", upload_bytes >> 20),
                format!("{:.0} MiB/s together", self.upload_rate / 1048576.0),
            ),
            (
                "peak memory of the server".into(),
                format!("{before} MiB before, {watched} MiB while watched, {uploading} MiB while it took the uploads"),
            ),
        ];
        writeln!(f, "| what | |\n| --- | --- |")?;
        rows.iter().try_for_each(|(what, result)| writeln!(f, "| {what} | {result} |"))
    }
}

/// Puts a server under load. Panics when a watcher misses or repeats an event, or anything is refused.
pub async fn load(load: Load) -> Report {
    let server = Setup::default().with_real_trainer().flag("--max-queued-jobs", load.jobs + 1).start().await;
    let client = server.client().await;
    let alone = client.create_job(run(&server, load.steps)).await.expect("the job is accepted");
    let step_alone = median_step(&collected(&alone).await);
    let before = peak_memory(&server);

    forget_peak(&server);
    let processor_before = processor_time(&server);
    let job = client.create_job(run(&server, load.steps)).await.expect("the job is accepted");
    let idle = idle_watcher(&server, &job).await;
    let watchers = join_all((0..load.watchers.div_ceil(WATCHERS_PER_CONNECTION)).map(|_| server.client())).await;
    let watchers = (0..load.watchers).map(|number| watchers[number / WATCHERS_PER_CONNECTION].job(job.id()));
    let watching: Vec<_> = watchers.map(|job| tokio::spawn(watched(job))).collect();
    let (queued, creation) = create_queue(&server, load.jobs).await;
    let mut delays = Vec::new();
    let events = collected(&job).await;
    for watcher in watching {
        let (numbers, own) = watcher.await.expect("watching does not panic");
        assert!(numbers.iter().copied().eq(1..=events.len() as u64), "a watcher got {numbers:?}");
        delays.extend(own);
    }
    drop(idle);
    let processor = processor_time(&server) - processor_before;
    let watched = peak_memory(&server);
    for job in queued {
        // Those whose turn has come meanwhile have ended.
        let _ = job.cancel().await;
    }

    forget_peak(&server);
    let upload_rate = upload(&server, load).await;
    delays.sort_unstable();
    Report {
        load,
        events: events.len(),
        delays: [0.5, 0.99, 1.0].map(|share| quantile(&delays, share)),
        step_seconds: [step_alone, median_step(&events)],
        processor: processor / (load.watchers * events.len()) as u32,
        creation,
        server_memory: [before, watched, peak_memory(&server)],
        upload_rate,
    }
}

/// A run whose steps take about half a second on one core: those of the fixture's rows many times over.
fn run(server: &Server, steps: u64) -> v1::JobSpec {
    let rows = server.setup().path("rows.jsonl");
    let once = std::fs::read_to_string(repository().join("tests/fixtures/sft/rows.jsonl")).expect("a fixture");
    std::fs::write(&rows, once.repeat(8)).expect("the test's folder can be written");
    let mut spec = sft(uri(fixture_model("llama")), uri(rows));
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.batch = Some(v1::BatchSpec { examples_per_step: Some(8 * 96), ..Default::default() });
    task.length = Some(v1::sft_task::Length::MaxSteps(steps));
    spec
}

/// All events of a job, once it has ended.
async fn collected(job: &JobHandle) -> Vec<v1::JobEvent> {
    job.watch().try_collect().await.expect("the server answers")
}

/// Numbers of all events, and how late those of steps came: what a step tells is not waited for by anybody else.
async fn watched(job: JobHandle) -> (Vec<u64>, Vec<Duration>) {
    let (mut numbers, mut delays) = (Vec::new(), Vec::new());
    let mut events = job.watch();
    while let Some(event) = events.next().await {
        let event = event.expect("the server answers");
        numbers.push(event.sequence);
        if let (Some(Event::TrainStep(_)), Some(time)) = (&event.event, event.time) {
            let told = SystemTime::try_from(time).expect("a time");
            delays.push(SystemTime::now().duration_since(told).unwrap_or_default());
        }
    }
    (numbers, delays)
}

/// A watcher that takes nothing of what it is sent.
async fn idle_watcher(server: &Server, job: &JobHandle) -> tonic::Streaming<v1::WatchJobResponse> {
    let mut stub = JobServiceClient::connect(server.url()).await.expect("the server listens");
    let request = v1::WatchJobRequest { job_id: job.id().into(), after_sequence: 0 };
    stub.watch_job(request).await.expect("the job is there").into_inner()
}

async fn create_queue(server: &Server, num_jobs: usize) -> (Vec<JobHandle>, [Duration; 2]) {
    let client = server.client().await;
    let (mut jobs, mut times) = (Vec::new(), Vec::new());
    for _ in 0..num_jobs {
        let start = Instant::now();
        jobs.push(client.create_job(run(server, 1)).await.expect("there is room in the queue"));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    (jobs, [quantile(&times, 0.5), quantile(&times, 1.0)])
}

/// Uploads of one file, all at once; gives bytes a second.
async fn upload(server: &Server, load: Load) -> f64 {
    let path = rows_of(&server.setup().path("large.jsonl"), load.upload_bytes);
    let client = server.client().await;
    let start = Instant::now();
    let uploads = join_all((0..load.uploads).map(|_| client.upload_dataset(&path))).await;
    let seconds = start.elapsed().as_secs_f64();
    for dataset in uploads {
        let dataset = dataset.expect("it is taken");
        assert_eq!(dataset.size_bytes, load.upload_bytes);
        client.delete_dataset(&dataset.dataset_id).await.expect("nobody reads it");
    }
    load.uploads as f64 * load.upload_bytes as f64 / seconds
}

/// A file of rows of exactly so many bytes.
pub(crate) fn rows_of(path: &Path, num_bytes: u64) -> PathBuf {
    let rows = "{\"text\": \"one of many rows\"}\n".repeat(40_000);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("the test's folder can be written"));
    let mut left = num_bytes as usize;
    while left > 0 {
        let piece = left.min(rows.len());
        file.write_all(&rows.as_bytes()[..piece]).expect("there is room");
        left -= piece;
    }
    file.flush().expect("there is room");
    path.to_path_buf()
}

fn median_step(events: &[v1::JobEvent]) -> f64 {
    let steps = events.iter().filter_map(|event| match &event.event {
        Some(Event::TrainStep(step)) => Some(step.step_seconds),
        _ => None,
    });
    let mut steps: Vec<_> = steps.collect();
    steps.sort_unstable_by(f64::total_cmp);
    steps[steps.len() / 2]
}

/// The smallest of sorted `times` that so large a share of them is at most.
fn quantile(times: &[Duration], share: f64) -> Duration {
    let place = (times.len() as f64 * share).ceil() as usize;
    times.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// Most memory that a server has used, in bytes, since it was last forgotten.
fn peak_memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// How long a server has had a processor so far.
fn processor_time(server: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("the server runs");
    // Behind the name, which is in brackets, the twelfth and thirteenth word count hundredths of a second.
    let (_, words) = stat.rsplit_once(')').expect("Linux tells");
    let ticks: u64 = words.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}

fn forget_peak(server: &Server) {
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("it is our process");
}
