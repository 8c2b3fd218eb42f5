//! The SDK without an asynchronous runtime of one's own.

use hone_client::blocking::Client;
use hone_client::spec::{Data, Job, Sft};
use hone_client::{Outcome, v1};
use hone_tests::{Setup, conversation, fixture_model, write_lines};
use v1::job_event::Event;

#[tokio::test]
async fn a_program_without_a_runtime_uploads_follows_and_downloads() {
    let server = Setup::default().start().await;
    let rows = write_lines(server.setup().path("rows.jsonl"), [conversation("a?", "b.")]);
    let (url, target) = (server.url(), server.setup().path("adapter"));
    // A thread of its own: within the test's runtime its calls would panic.
    let program = move || -> hone_client::Result<()> {
        let client = Client::connect(url)?;
        assert!(client.server_info()?.storage_root.starts_with("file://"));
        let model = client.upload_model(fixture_model("llama_tied"), "tiny")?;
        let rows = client.upload_dataset(rows)?;
        let sft = Sft::new(Data::new([rows.dataset_id])).max_steps(3);
        let job = client.create_job(Job::new(model.model_id, sft).build()?)?;
        let events = job.watch().collect::<hone_client::Result<Vec<_>>>()?;
        let steps = events.iter().filter(|event| matches!(event.event, Some(Event::TrainStep(_)))).count();
        assert_eq!(steps, 3);
        let Outcome::Succeeded(result) = job.wait()?.outcome else { panic!("it should have succeeded") };
        job.download(&result.final_checkpoint_id, &target)?;
        assert!(target.join("manifest.json").is_file());
        let unknown = client.get_job(&format!("job-{}", "0".repeat(32))).unwrap_err();
        assert_eq!(unknown.code(), Some(hone_client::Code::NotFound));
        client.delete_job(job.id())
    };
    tokio::task::spawn_blocking(program).await.unwrap().unwrap();
}
