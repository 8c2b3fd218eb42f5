//! Which operators of LibTorch ran, how often and for how long.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::ffi;

/// What an operator took in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpTime {
    /// LibTorch's name for it, such as `aten::mm`; a step of a backward pass has the name of its node.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// Time in it, without the operators it called.
    pub own: Duration,
}

/// One count at a time, since the totals are of the whole process.
static COUNTING: Mutex<()> = Mutex::new(());

/// Runs `body` and tells which operators it ran, its backward passes included, longest first.
pub fn op_times<T>(body: impl FnOnce() -> T) -> (T, Vec<OpTime>) {
    let _counting = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: takes nothing.
    ffi::check(unsafe { ffi::hone_op_times_begin() });
    let counting = End;
    let value = body();
    let text = counting.text();
    let mut times: Vec<OpTime> = text.lines().filter_map(parse).collect();
    times.sort_by_key(|time| std::cmp::Reverse(time.own));
    (value, times)
}

/// Counting ends even when the body panics.
struct End;

impl End {
    fn text(self) -> String {
        std::mem::forget(self);
        end()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        end();
    }
}

fn end() -> String {
    let mut text = std::ptr::null_mut();
    // SAFETY: `text` is written once, with a string that is owned here alone.
    unsafe {
        ffi::check(ffi::hone_op_times_end(&mut text));
        ffi::take_text(text)
    }
}

fn parse(line: &str) -> Option<OpTime> {
    let mut parts = line.split('\t');
    let (name, calls, nanos) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(OpTime { name: name.to_string(), calls, own: Duration::from_nanos(nanos) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn operators_are_counted_by_name_while_the_body_runs() {
        let x = Tensor::ones([4, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (value, times) = op_times(|| {
            let sum = x.mm(&x).mm(&x).sum(Kind::Float);
            sum.backward();
            sum.double_value(&[])
        });
        assert_eq!(value, 256.0);
        let calls = |name: &str| times.iter().find(|time| time.name == name).map_or(0, |time| time.calls);
        assert_eq!(calls("aten::mm"), 2 + 4, "{times:?}");
        assert_eq!(calls("aten::_local_scalar_dense"), 1, "reading a value waits for the device: {times:?}");
        let (_, times) = op_times(|| ());
        assert!(times.iter().all(|time| time.name != "aten::mm"), "each count begins at nothing");
    }
}
