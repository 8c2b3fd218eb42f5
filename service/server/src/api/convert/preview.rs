//! What a preview asks, as the spec that its rows would be trained by.

use hone_job::spec::{JobSpec, Violation};
use hone_proto::v1 as pb;
use hone_spec::job_spec;
use pb::job_spec::Task as TaskOneof;

/// What a preview needs of a spec: base model, rows and which tokens are trained on. Checked as a job's would be.
pub(in crate::api) fn preview_spec(
    base_model: Option<pb::BaseModel>,
    data: Option<pb::DataSpec>,
    loss_on: i32,
    preference: bool,
) -> (JobSpec, Vec<Violation>) {
    let task = match preference {
        true => TaskOneof::Dpo(pb::DpoTask { data, ..Default::default() }),
        false => TaskOneof::Sft(pb::SftTask { data, loss_on, ..Default::default() }),
    };
    let spec = pb::JobSpec { base_model, task: Some(task), ..Default::default() };
    let (converted, mut violations) = job_spec(Some(spec));
    if preference && loss_on != 0 {
        violations.push(Violation::new("loss_on", "is for sft rows; of pairs the answers are trained on"));
    }
    for violation in &mut violations {
        let path = &violation.field;
        let field = ["spec.sft.", "spec.dpo.", "spec."].into_iter().find_map(|prefix| path.strip_prefix(prefix));
        if let Some(field) = field {
            violation.field = field.to_string();
        }
    }
    (converted, violations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_names_its_fields_as_its_own_request_does() {
        let (_, violations) =
            preview_spec(None, Some(pb::DataSpec { eval_fraction: Some(2.0), ..Default::default() }), 0, false);
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["base_model.uri", "data.train", "data.eval_fraction"]);
        let (_, violations) = preview_spec(None, None, 2, true);
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["base_model.uri", "data.train", "loss_on"]);
    }
}
