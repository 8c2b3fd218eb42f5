//! What of a spec may change when a paused job goes on.

use serde_json::Value;

use super::{JobSpec, Violation};

impl JobSpec {
    /// What of `next` is not as in this spec and may not change in a job that goes on, by field: all but the length and early stopping.
    pub fn refused_on_resume(&self, next: &JobSpec) -> Vec<Violation> {
        let mut next = next.clone();
        if let (Some(training), Some(own)) = (next.task.training_mut(), self.task.training()) {
            training.length = own.length;
            training.evaluation.early_stopping = own.evaluation.early_stopping;
        }
        let text = |spec: &JobSpec| serde_json::to_value(spec).expect("a spec has a text");
        let mut found = Vec::new();
        differences(&text(self), &text(&next), &mut vec!["spec"], &mut found);
        let what = |own: &Value, next: &Value| {
            format!("is {next}, the job has {own}; only the length and early stopping may change on resume")
        };
        found.into_iter().map(|(field, own, next)| Violation::new(field, what(&own, &next))).collect()
    }
}

/// The fields in which two texts differ, with both values, named as in a request.
fn differences<'a>(one: &'a Value, other: &'a Value, path: &mut Vec<&'a str>, found: &mut Vec<(String, Value, Value)>) {
    match (one, other) {
        _ if one == other => {}
        (Value::Object(fields), Value::Object(others)) if fields.keys().eq(others.keys()) => {
            for (name, value) in fields {
                path.push(name);
                differences(value, &others[name], path, found);
                path.pop();
            }
        }
        _ => found.push((field(path), one.clone(), other.clone())),
    }
}

/// The field of a request that a path in the effective spec's text belongs to.
fn field(path: &[&str]) -> String {
    let names = path.iter().filter_map(|name| match *name {
        "task" | "training" | "preference" => None,
        "base_model" => Some("base_model.uri"),
        "rule" | "kind" => Some("type"),
        name => Some(name),
    });
    let names: Vec<&str> = names.collect();
    // What belongs to one type only stands beside the type in a request.
    match names.iter().position(|name| *name == "type") {
        Some(place) if place + 2 < names.len() => [&names[..place], &names[names.len() - 1..]].concat().join("."),
        _ => names.join("."),
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::{Adapter, Length, Lora, Optimizer, Task, Training, UpdateRule, tests::spec};

    fn refused(change: fn(&mut Training)) -> Vec<String> {
        let mut next = spec();
        change(next.task.training_mut().unwrap());
        spec().refused_on_resume(&next).into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn the_length_may_change_and_nothing_else() {
        assert_eq!(refused(|training| training.length = Length::MaxSteps(7)), [""; 0]);
        assert_eq!(refused(|training| training.seed = 1), ["spec.sft.seed"]);
        assert_eq!(
            refused(|training| {
                training.optimizer.learning_rate = 1.0;
                training.optimizer.rule = UpdateRule::AdamW { beta1: 0.5, beta2: 0.999, epsilon: 1e-8 };
                training.data.max_length = 5;
                training.adapter = Adapter::Lora(Lora { rank: 3, ..Lora::default() });
            }),
            [
                "spec.sft.data.max_length",
                "spec.sft.adapter.lora.rank",
                "spec.sft.optimizer.beta1",
                "spec.sft.optimizer.learning_rate",
            ]
        );
        assert_eq!(
            refused(|training| training.optimizer = Optimizer::of(UpdateRule::lion()))[0],
            "spec.sft.optimizer.type"
        );
        let mut next = spec();
        next.base_model = "file:///other".into();
        let Task::Sft(task) = &mut next.task else { panic!("an sft task") };
        task.neftune_noise_alpha = 1.0;
        let violations = spec().refused_on_resume(&next);
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["spec.base_model.uri", "spec.sft.neftune_noise_alpha"]);
        assert!(violations[1].description.contains("is 1.0, the job has 0.0"), "{violations:?}");
    }
}
