//! [`Window`]: how many free buffers the kernel gets. Pure.
//!
//! The kernel uses all buffers that it has in turn, so with many of them each is cold in the cache
//! when it is used again (docs/kernel.md, K-BUF-2). So it gets a few, the last ones to return
//! first. It gets more when it runs out while there are others.

/// Buffers that the kernel gets at first, and at least. It is more than one enter delivers to a
/// socket.
const LEAST: usize = 64;

/// After this many refills in a row that found half of the window unused, the window is halved.
const PATIENCE: u32 = 1024;

#[derive(Debug)]
pub(super) struct Window {
    /// How many buffers the kernel should have.
    size: usize,
    /// The maximum of `size`.
    most: usize,
    /// How many refills in a row found half of the window or more unused.
    idle: u32,
}

impl Window {
    pub(super) fn new(most: usize) -> Self {
        Self { size: LEAST.min(most), most, idle: 0 }
    }

    /// Returns how many buffers to add, if the kernel has `left`.
    pub(super) fn refill(&mut self, left: usize) -> usize {
        self.idle = if left < self.size.div_ceil(2) { 0 } else { self.idle + 1 };
        if self.idle >= PATIENCE {
            self.idle = 0;
            self.size = (self.size / 2).max(LEAST.min(self.most));
        }
        self.size.saturating_sub(left)
    }

    /// The kernel has run out although there were other buffers.
    pub(super) fn widen(&mut self) {
        self.idle = 0;
        self.size = (self.size * 2).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_a_few_buffers_and_more_when_it_runs_out() {
        let mut window = Window::new(512);
        assert_eq!(window.refill(0), LEAST);
        assert_eq!(window.refill(60), 4);
        for expected in [128, 256, 512, 512] {
            window.widen();
            assert_eq!(window.refill(0), expected);
        }
    }

    #[test]
    fn a_window_that_is_not_used_shrinks_again() {
        let mut window = Window::new(512);
        window.widen();
        window.widen();
        for _ in 0..PATIENCE - 1 {
            window.refill(200);
        }
        // Used once: the count starts again.
        assert_eq!(window.refill(10), 246);
        for _ in 0..PATIENCE {
            window.refill(128);
        }
        assert_eq!(window.refill(0), 128);
        for _ in 0..3 * PATIENCE {
            window.refill(100);
        }
        assert_eq!(window.refill(0), LEAST);
    }

    #[test]
    fn a_small_pool_is_with_the_kernel_whole() {
        let mut window = Window::new(4);
        assert_eq!(window.refill(0), 4);
        window.widen();
        assert_eq!(window.refill(1), 3);
    }
}
