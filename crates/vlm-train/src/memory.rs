//! How much memory a run took.

/// The most memory of this process that was in use at one time, in bytes; `None` where the
/// operating system does not say (it does on Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_in_use_stays_counted() {
        const MUCH: usize = 64 << 20;
        let block = std::hint::black_box(vec![1u8; MUCH]);
        drop(block);
        assert!(peak_memory().unwrap() >= MUCH as u64);
    }
}
