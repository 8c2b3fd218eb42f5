//! Every error becomes a failure of the right class, with its place.

use hone_job::event::RowNote;
use tch::Tensor;

use super::*;

fn caught(work: impl FnOnce() + std::panic::UnwindSafe) -> Error {
    let payload = std::panic::catch_unwind(work).unwrap_err();
    Error::from_panic(payload.as_ref())
}

#[test]
fn a_panic_of_libtorch_is_told_in_its_first_line() {
    let error = caught(|| {
        let _ = Tensor::from_slice(&[1.0, 2.0]) + Tensor::from_slice(&[1.0, 2.0, 3.0]);
    });
    let failure = error.failure();
    assert!(failure.message.starts_with("The size of tensor a (2) must match"), "{failure}");
    assert!(!failure.message.contains("\\n") && !failure.message.contains("Torch("), "{failure}");
    assert_eq!((failure.reason, failure.retryable), (Reason::Internal, false));
}

#[test]
fn memory_that_libtorch_cannot_have_is_out_of_memory() {
    let error = caught(|| {
        let _ = Tensor::zeros([1 << 50], tch::kind::FLOAT_CPU);
    });
    let failure = error.failure();
    assert_eq!(failure.reason, Reason::OutOfMemory, "{failure}");
    assert!(failure.remedy.contains("tokens_per_micro_batch"), "{failure}");
}

#[test]
fn what_is_not_in_storage_is_not_tried_again_and_what_cannot_be_reached_is() {
    let (uri, step) = ("s3://b/model".to_string(), storage::Step::Get);
    let missing = Error::Storage(storage::Error::NotFound { uri, step }).failure();
    assert_eq!((missing.reason, missing.retryable), (Reason::Storage, false));
    let place = hone_data::storage::Storage::open_path(std::path::Path::new("/nowhere")).unwrap();
    let away = object_store::Error::Generic { store: "S3", source: "a broken connection".into() };
    let away = Error::Storage(place.failure(storage::Step::Get, away)).failure();
    assert_eq!((away.reason, away.retryable), (Reason::Storage, true));
}

#[test]
fn panics_are_classed_by_what_they_say() {
    let check = |message: &str, reason: Reason| {
        let error = Error::from_panic(&message.to_string());
        assert_eq!(error.failure().reason, reason, "{message}");
    };
    check(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nException raised from malloc",
        Reason::OutOfMemory,
    );
    check("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", Reason::OutOfMemory);
    check("CUDA error: an illegal memory access was encountered", Reason::TrainerCrashed);
    check("index out of bounds: the len is 3 but the index is 3", Reason::Internal);
}

#[test]
fn first_lines_are_free_of_rust_and_backtraces() {
    let check = |message: &str, line: &str| assert_eq!(first_line(message), line);
    check(
        "called `Result::unwrap()` on an `Err` value: Torch(\"it \\\"broke\\\"\\nException raised from x.cpp:1\\n\")",
        "it \"broke\"",
    );
    check("plain \\n text\nbacktrace", "plain \\n text");
    check("", "");
}

#[test]
fn failures_say_where_and_what_to_try() {
    let check = |error: Error, reason: Reason, location: &str| {
        let failure = error.failure();
        assert_eq!((failure.reason, failure.location.as_str()), (reason, location), "{failure}");
        assert!(!failure.remedy.is_empty(), "{failure}");
        // What is missing is the exception, which the test above is about.
        assert!(!failure.retryable || reason.retryable());
    };
    let note = RowNote { object: "file:///rows.jsonl".into(), row: 7, note: "expected an object".into() };
    let malformed = dataset::Error::Malformed { count: 1, notes: vec![note] };
    check(malformed.into(), Reason::InvalidData, "file:///rows.jsonl:7");
    let missing = model::Error::MissingTensor { path: "/m".into(), tensor: "lm_head.weight".into() };
    check(missing.into(), Reason::ModelUnsupported, "/m: lm_head.weight");
    let unfit = tokenizer::Error::DoesNotFit { origin: "/m/tokenizer.json".into(), largest_id: 9, vocab_size: 5 };
    check(unfit.into(), Reason::ModelUnsupported, "/m/tokenizer.json");
    let refused = || storage::Error::NotFound { uri: "s3://b/x".into(), step: storage::Step::Get };
    check(refused().into(), Reason::Storage, "s3://b/x");
    check(dataset::Error::Source(refused().into()).into(), Reason::Storage, "s3://b/x");
    check(Error::NonFinite { step: 9, skipped: 5, rows: "a rows 1".into() }, Reason::NonFinite, "step 9");
}
