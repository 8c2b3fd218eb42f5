//! Ten faults in a row; `make soak` lets a hundred happen.

#[tokio::test]
async fn ten_random_faults_leave_no_trace_in_the_weights() {
    let report = hone_tests::soak(10, 1, |_, _| {}).await;
    assert!(report.differences.is_empty() && report.faults.len() == 10, "{report}");
}
