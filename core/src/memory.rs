//! Sizes of memory.

use std::path::Path;

/// Where Linux shows its control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes in GiB (2^30 bytes).
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Bytes of memory that are free for this program: of the machine, and of a container that limits it. `None` if the system does
/// not report it.
pub fn available() -> Option<u64> {
    let machine = kibibytes("/proc/meminfo", "MemAvailable:")?;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(left_by_groups(Path::new(GROUPS), &own).map_or(machine, |left| left.min(machine)))
}

/// Bytes of memory of this machine; `None` if the system does not report it.
pub fn total() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemTotal:")
}

/// Bytes of memory that this process has in use now; `None` if the system does not report it.
pub fn resident() -> Option<u64> {
    kibibytes("/proc/self/status", "VmRSS:")
}

/// The most bytes of memory that this process has had in use; `None` if the system does not report it.
pub fn peak_resident() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM:")
}

/// The bytes of a line `KEY N kB` in one of the system's files.
fn kibibytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Bytes that control groups leave to a process whose `/proc/self/cgroup` has this text: the least of its group's and of all
/// groups around it. A container sees its own group as the root, whatever the text says. `None` without a limit.
fn left_by_groups(root: &Path, own: &str) -> Option<u64> {
    let places = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = Path::new(path.trim_start_matches('/'));
        match controllers {
            "" => Some((root.to_path_buf(), path, ["memory.max", "memory.current", "inactive_file"])),
            _ if controllers.split(',').any(|controller| controller == "memory") => Some((
                root.join("memory"),
                path,
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
            )),
            _ => None,
        }
    });
    places
        .flat_map(|(root, path, names)| path.ancestors().filter_map(move |group| left(&root.join(group), names)))
        .min()
}

/// Bytes that one group leaves: its limit less what it uses. Files that the system keeps in memory are given up when memory is
/// short.
fn left(group: &Path, [limit, usage, reclaimed]: [&str; 3]) -> Option<u64> {
    let number = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    // "max" is no number, and stands for no limit; version 1 has a number beyond any machine for it.
    let (limit, usage) = (number(limit)?, number(usage)?);
    let statistics = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let files = statistics.lines().find_map(|line| line.strip_prefix(reclaimed)?.trim().parse::<u64>().ok());
    Some(limit.saturating_sub(usage.saturating_sub(files.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(folder: &Path, files: [(&str, &str); 3]) {
        std::fs::create_dir_all(folder).unwrap();
        files.into_iter().for_each(|(file, text)| std::fs::write(folder.join(file), text).unwrap());
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let stat = ("memory.stat", "anon 5\ninactive_file 100\n");
        group(&root.path().join("a"), [("memory.max", "1000\n"), ("memory.current", "700\n"), stat]);
        group(&root.path().join("a/b"), [("memory.max", "max\n"), ("memory.current", "400\n"), stat]);
        group(&root.path().join("a/c"), [("memory.max", "500\n"), ("memory.current", "450\n"), stat]);
        assert_eq!(left_by_groups(root.path(), "0::/a/b\n"), Some(400));
        assert_eq!(left_by_groups(root.path(), "0::/a/c\n"), Some(150));
        assert_eq!(left_by_groups(root.path(), "0::/\n"), None);
        // A container's own group is the root of what it sees.
        group(root.path(), [("memory.max", "300"), ("memory.current", "350"), stat]);
        assert_eq!(left_by_groups(root.path(), "0::/../unseen\n"), Some(50));
    }

    #[test]
    fn groups_of_version_1_count() {
        let root = tempfile::tempdir().unwrap();
        let stat = ("memory.stat", "inactive_file 7\ntotal_inactive_file 30\n");
        let folder = root.path().join("memory/docker/x");
        group(&folder, [("memory.limit_in_bytes", "200\n"), ("memory.usage_in_bytes", "90\n"), stat]);
        let own = "3:cpuset:/docker/x\n2:cpu,memory:/docker/x\n0::/\n";
        assert_eq!(left_by_groups(root.path(), own), Some(140));
        assert_eq!(left_by_groups(root.path(), "3:cpuset:/docker/x\n"), None);
    }

    #[test]
    fn this_machine_has_memory() {
        if cfg!(target_os = "linux") {
            assert!(available().is_some_and(|bytes| bytes > 0));
            assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
