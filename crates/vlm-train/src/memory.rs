//! What a run has to do with the memory of its process.

/// The most memory of this process that was in use at one time, in bytes; `None` where the
/// operating system does not say (it does on Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Tells the C library to keep what is freed: a training step frees all it took, and the next would
/// wait for the same pages to be cleared again, a tenth of its time. For programs that train; to be
/// called before they do.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both only set how the allocator behaves from now on.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
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
