//! Answers that a model writes, beside those that are expected.

use hone_job::score::AnswerMetrics;

use crate::task::evaluate::standard_error;

/// What a model wrote to every row, and how good it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Grades {
    pub(super) answers: Vec<String>,
    /// Whether the answer is what is expected, without the space around both.
    pub(super) is_exact: Vec<bool>,
    /// Whether it holds what is expected.
    pub(super) contains: Vec<bool>,
}

impl Grades {
    /// Grades answers; `expected` has as many.
    pub(super) fn of(answers: Vec<String>, expected: &[String]) -> Grades {
        let pairs = || answers.iter().map(|answer| answer.trim()).zip(expected.iter().map(|text| text.trim()));
        let is_exact = pairs().map(|(answer, expected)| answer == expected).collect();
        // Nothing is in everything.
        let contains = pairs().map(|(answer, expected)| !expected.is_empty() && answer.contains(expected)).collect();
        Grades { answers, is_exact, contains }
    }

    pub(super) fn metrics(&self) -> AnswerMetrics {
        let (exact_match, exact_match_standard_error) = share(&self.is_exact);
        let (contains, contains_standard_error) = share(&self.contains);
        AnswerMetrics {
            answers: self.answers.len() as u64,
            exact_match,
            exact_match_standard_error,
            contains,
            contains_standard_error,
        }
    }
}

/// The share of rows that are so, with its standard error.
fn share(rows: &[bool]) -> (f64, f64) {
    let value = |is: &bool| f64::from(u8::from(*is));
    let mean = rows.iter().map(value).sum::<f64>() / rows.len().max(1) as f64;
    (mean, standard_error(rows.iter().map(|is| value(is) - mean)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_exact_or_holds_what_is_expected() {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let answers = texts(&[" Paris\n", "It is Paris.", "paris", "", "x"]);
        let grades = Grades::of(answers, &texts(&["Paris", "Paris ", "Paris", "Paris", " "]));
        assert_eq!(grades.is_exact, [true, false, false, false, false]);
        assert_eq!(grades.contains, [true, true, false, false, false]);
        let metrics = grades.metrics();
        assert_eq!((metrics.answers, metrics.exact_match, metrics.contains), (5, 0.2, 0.4));
        assert!((metrics.contains_standard_error - (0.24f64 / 4.0).sqrt()).abs() < 1e-12, "{metrics:?}");
    }
}
