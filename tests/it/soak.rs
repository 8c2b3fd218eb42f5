//! Ten faults in a row, to either method; `make soak` lets a hundred happen.

use hone_tests::Workload;

async fn ten_faults_leave_no_trace(workload: Workload) {
    let report = hone_tests::soak(workload, 10, 1, |_, _| {}).await;
    assert!(report.differences.is_empty() && report.faults.len() == 10, "{report}");
}

#[tokio::test]
async fn ten_random_faults_leave_no_trace_in_the_weights() {
    ten_faults_leave_no_trace(Workload::Sft).await;
}

#[tokio::test]
async fn nor_in_those_of_dpo_with_a_plateau_and_early_stopping() {
    ten_faults_leave_no_trace(Workload::Dpo).await;
}
