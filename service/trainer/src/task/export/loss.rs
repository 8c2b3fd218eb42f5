//! What rounding takes away of an update.

use hone_job::event::ExportReport;
use tch::{Kind, Tensor};

/// Sums over all tensors that training changed.
#[derive(Debug, Default)]
pub(super) struct Rounding {
    tensors: u64,
    weights: u64,
    unchanged: u64,
    lost_square: f64,
    update_square: f64,
    worst: Option<(f64, String)>,
}

impl Rounding {
    /// Counts a tensor: the base model's, with its update in float32, and that as it is written.
    pub(super) fn add(&mut self, name: &str, base: &Tensor, merged: &Tensor, rounded: &Tensor) {
        let square = |tensor: Tensor| tensor.square().sum(Kind::Double).double_value(&[]);
        let base_float = base.to_kind(Kind::Float);
        let update = square(merged - &base_float);
        let lost = square(rounded.to_kind(Kind::Float) - merged);
        self.tensors += 1;
        self.weights += merged.numel() as u64;
        self.unchanged += rounded.eq_tensor(&base.to_kind(rounded.kind())).sum(Kind::Int64).int64_value(&[]) as u64;
        self.lost_square += lost;
        self.update_square += update;
        let share = ratio(lost, update);
        if self.worst.as_ref().is_none_or(|(worst, _)| share > *worst) {
            self.worst = Some((share, name.to_string()));
        }
    }

    /// The part of the report that is about updates.
    pub(super) fn report(self) -> ExportReport {
        let changed = self.weights > 0;
        let (worst_update_lost, worst_tensor) = self.worst.unzip();
        ExportReport {
            merged_tensors: self.tensors,
            update_lost: changed.then(|| ratio(self.lost_square, self.update_square)),
            unchanged_fraction: changed.then(|| self.unchanged as f64 / self.weights as f64),
            worst_tensor: worst_tensor.unwrap_or_default(),
            worst_update_lost,
            ..ExportReport::default()
        }
    }
}

/// Of two squared norms, `√(lost / update)`; 0 where there was no update.
fn ratio(lost: f64, update: f64) -> f64 {
    if update > 0.0 { (lost / update).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_below_half_a_step_is_lost_whole_and_one_of_a_step_not_at_all() {
        // Between 1 and 2 bfloat16 has steps of 1/128.
        let base = Tensor::from_slice(&[1f32, 1.0, 1.0, 1.0]).to_kind(Kind::BFloat16);
        let step: f64 = 1.0 / 128.0;
        let merged = Tensor::from_slice(&[1.0 + step, 1.0 + step / 4.0, 1.0 - step / 8.0, 1.0]).to_kind(Kind::Float);
        let mut rounding = Rounding::default();
        rounding.add("one", &base, &merged, &merged.to_kind(Kind::BFloat16));
        let even = Tensor::from_slice(&[1.5f32, 1.25]).to_kind(Kind::BFloat16);
        let wide = even.to_kind(Kind::Float) + step;
        rounding.add("two", &even, &wide, &wide.to_kind(Kind::BFloat16));
        let report = rounding.report();
        assert_eq!((report.merged_tensors, report.worst_tensor.as_str()), (2, "one"));
        let lost = (step / 4.0).powi(2) + (step / 8.0).powi(2);
        let of_one = lost + step.powi(2);
        let close = |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 1e-6, "{got:?}, {want}");
        close(report.worst_update_lost, (lost / of_one).sqrt());
        close(report.update_lost, (lost / (of_one + 2.0 * step.powi(2))).sqrt());
        close(report.unchanged_fraction, 3.0 / 6.0);
        assert_eq!(Rounding::default().report(), ExportReport::default());
    }
}
