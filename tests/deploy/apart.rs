//! Runs a test in namespaces of its own: network, processes and mounts.
//!
//! An engine makes bridges, packet filter rules, mounts and processes that outlive it. Here all of them are the test's
//! alone, and the kernel removes them when its first process ends, even if that is killed. What is left is a directory
//! and control groups, and these go when the test is over.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says to the process inside which directory is its own.
const DIRECTORY: &str = "MANA_PROXY_TEST_APART";
/// Written inside, so that a test that was not found is no success.
const RAN: &str = "ran";

/// Runs a test apart. To be called once, by a test function, with a closure that is written there.
pub fn apart<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if env::var_os(DIRECTORY).is_some() {
        fs::write(directory().join(RAN), "").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.unwrap().block_on(test());
        return;
    }
    let name = name_of(&test);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy");
    fs::create_dir_all(&target).unwrap();
    let directory = tempfile::Builder::new()
        .prefix("apart-")
        .tempdir_in(&target)
        .unwrap();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation=private"])
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        // The shell is process 1: it has to wait for processes that nobody waits for.
        .args(["sh", "-c", r#"ip link set lo up && "$@"; exit $?"#, "sh"])
        .arg(env::current_exe().unwrap())
        .args([&name, "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .status()
        .expect("unshare: apt-get install util-linux");
    remove_control_groups(directory.path());
    assert!(status.success(), "{name}: {status}");
    assert!(directory.path().join(RAN).exists(), "there is no {name}");
}

/// The directory of this test. It is removed when the test is over.
pub fn directory() -> PathBuf {
    PathBuf::from(env::var_os(DIRECTORY).expect("a test that runs apart"))
}

/// The name of the control group that the containers of a test are in.
pub fn control_group() -> String {
    control_group_of(&directory())
}

fn control_group_of(directory: &Path) -> String {
    let name = directory.file_name().unwrap().to_str().unwrap();
    format!("mana-proxy-test-{name}")
}

/// The path of the test function, as libtest spells it: that of its closure without the crate and the closure.
fn name_of<T>(_: &T) -> String {
    let path = std::any::type_name::<T>();
    let (_, within_crate) = path.split_once("::").unwrap();
    within_crate.trim_end_matches("::{{closure}}").to_owned()
}

/// Their processes are gone; the directories of the groups are not.
fn remove_control_groups(directory: &Path) {
    let wanted = format!("*/{}*", control_group_of(directory));
    let mut find = Command::new("find");
    find.args(["/sys/fs/cgroup", "-depth", "-type", "d"]);
    // Where there are none this does nothing, and one that cannot be removed is empty and costs nothing.
    find.args(["-path", &wanted, "-exec", "rmdir", "{}", ";"]);
    let _ = find.output();
}
