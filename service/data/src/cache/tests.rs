//! Copies come, are used and go; several caches over one folder stand for several processes.

use std::time::Duration;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes a copy of 100 bytes that was used so many seconds after the epoch.
fn make(cache: &Cache, name: &str, seconds: u64) -> Cached {
    let partial = cache.begin(100).unwrap();
    std::fs::write(partial.path().join("model.safetensors"), [7; 100]).unwrap();
    let copy = partial.finish(name).unwrap();
    copy._lock.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    copy
}

#[test]
fn the_copy_that_was_used_longest_ago_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_path_buf(), Some(250));
    drop(make(&cache, "a", 1));
    drop(make(&cache, "b", 2));
    drop(cache.get("a").unwrap().unwrap());
    make(&cache, "c", 3);
    assert_eq!(names(folder.path()), ["a", "c"]);
    assert!(cache.get("b").unwrap().is_none());
    let roomy = Cache::new(folder.path().to_path_buf(), None);
    for name in ["d", "e", "f"] {
        make(&roomy, name, 4);
    }
    assert_eq!(names(folder.path()).len(), 5, "without a limit nothing goes");
}

#[test]
fn what_another_process_uses_or_makes_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = [(); 2].map(|()| Cache::new(folder.path().to_path_buf(), Some(100))).into();
    let used = make(&one, "a", 1);
    let making = one.begin(100).unwrap();
    let also_used = make(&other, "b", 2);
    assert!(used.path().is_dir() && making.path().is_dir());
    drop(used);
    make(&other, "c", 3);
    assert!(other.get("a").unwrap().is_none() && also_used.path().is_dir());
    assert!(making.finish("d").unwrap().path().is_dir());
}

#[test]
fn what_a_killed_process_left_goes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(".partial-left")).unwrap();
    std::fs::write(folder.path().join(".partial-left/model.safetensors"), "half").unwrap();
    let cache = Cache::new(folder.path().to_path_buf(), None);
    drop(cache.begin(0).unwrap());
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn where_two_make_the_same_copy_the_first_counts() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_path_buf(), None);
    let slower = cache.begin(0).unwrap();
    std::fs::write(slower.path().join("slower"), "").unwrap();
    make(&cache, "a", 1);
    assert_eq!(names(slower.finish("a").unwrap().path()), ["model.safetensors"]);
    assert_eq!(names(folder.path()), ["a"]);
}

#[test]
fn many_who_use_make_and_remove_at_once_always_hold_whole_copies() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let cache = Cache::new(folder.path().to_path_buf(), Some(200));
            scope.spawn(move || {
                for round in 0..100 {
                    let name = ["a", "b", "c", "d"][(worker + round) % 4];
                    let copy = cache.get(name).unwrap().unwrap_or_else(|| make(&cache, name, 1));
                    assert_eq!(std::fs::read(copy.path().join("model.safetensors")).unwrap().len(), 100);
                }
            });
        }
    });
}
