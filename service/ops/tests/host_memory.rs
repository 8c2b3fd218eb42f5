//! The heap of tensors on the host. One test, alone in its process: other threads would take what it watches.

use tch::{Device, Kind, Tensor};

const MIB: i64 = 1 << 20;

fn of_mib(count: i64) -> Tensor {
    Tensor::ones([count * MIB], (Kind::Uint8, Device::Cpu))
}

fn resident_mib() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<i64>().ok()? / 1024)
}

#[test]
fn free_neighbours_become_one_place_which_is_kept_until_it_is_given_back() {
    for kept in ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"] {
        assert!(std::env::var_os(kept).is_some(), "{kept} is set before main");
    }
    hone_ops::give_memory_back();
    let before = resident_mib().unwrap();
    let whole = of_mib(64);
    let (first, last) = (whole.data_ptr() as usize, whole.data_ptr() as usize + 64 * MIB as usize);
    let is_inside = |tensor: &Tensor| (first..last).contains(&(tensor.data_ptr() as usize));
    drop(whole);
    // Pieces lie where the whole lay, and leave it whole again.
    for size in [1, 2, 4, 8] {
        let pieces: Vec<Tensor> = (0..64 / size).map(|_| of_mib(size)).collect();
        assert!(pieces.iter().all(is_inside));
        let (odd, even): (Vec<_>, Vec<_>) = pieces.into_iter().enumerate().partition(|(index, _)| index % 2 == 1);
        drop(even);
        drop(odd);
        let whole = of_mib(64);
        assert_eq!(whole.data_ptr() as usize, first);
        assert_eq!(whole.int64_value(&[64 * MIB - 1]), 1);
    }
    let kept = resident_mib().unwrap() - before;
    assert!(kept >= 60, "{kept} MiB are kept for the next");
    let held = of_mib(3);
    hone_ops::give_memory_back();
    let left = resident_mib().unwrap() - before;
    assert!(left < 16, "{left} MiB are left after all but 3 were given back");
    // What the system refuses is refused in LibTorch's words, and nothing else is lost by it.
    let refused = Tensor::f_ones([1 << 50], (Kind::Uint8, Device::Cpu)).unwrap_err().to_string();
    assert!(refused.contains("not enough memory") || refused.contains("can't allocate memory"), "{refused}");
    assert_eq!(held.int64_value(&[3 * MIB - 1]), 1);
}
