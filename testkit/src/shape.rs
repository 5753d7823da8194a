//! The shapes of the driver that every scenario runs on.

use ebbtide::{Builder, DriverChoice, RunningDriver, Runtime};

use crate::run;

/// A driver and the sizes of its queues. Every scenario runs on every shape.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The name in failure messages.
    pub name: &'static str,
    driver: DriverChoice,
    submission_entries: Option<usize>,
    completion_entries: Option<usize>,
    buffers: Option<usize>,
}

impl Shape {
    /// A ring if the machine supports it. If io_uring is refused, all shapes run on epoll.
    pub const DEFAULT: Self = Self {
        name: "default ring",
        driver: DriverChoice::Auto,
        submission_entries: None,
        completion_entries: None,
        buffers: None,
    };

    /// Every second push finds the submission queue full.
    pub const TWO_ENTRIES: Self =
        Self { name: "ring of 2 entries", submission_entries: Some(2), ..Self::DEFAULT };

    /// The completion queue keeps overflowing and the pool keeps running empty.
    pub const TINY: Self = Self {
        name: "completion queue of 8, pool of 4",
        driver: DriverChoice::Auto,
        submission_entries: Some(8),
        completion_entries: Some(8),
        buffers: Some(4),
    };

    /// Epoll, even if a ring is available.
    pub const EPOLL: Self = Self { name: "epoll", driver: DriverChoice::Epoll, ..Self::DEFAULT };

    /// All shapes.
    pub const ALL: [Self; 4] = [Self::DEFAULT, Self::TWO_ENTRIES, Self::TINY, Self::EPOLL];

    /// A builder of a runtime of this shape.
    pub fn builder(self) -> Builder {
        let mut builder = Runtime::builder().driver(self.driver);
        if let Some(entries) = self.submission_entries {
            builder = builder.submission_entries(entries);
        }
        if let Some(entries) = self.completion_entries {
            builder = builder.completion_entries(entries);
        }
        if let Some(count) = self.buffers {
            builder = builder.buffers(count);
        }
        builder
    }

    /// A runtime of this shape.
    pub fn runtime(self) -> Runtime {
        self.builder().build().unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Runs `scenario` on a runtime of this shape. Fails if it does not end within a minute.
    pub fn run<F: Future>(self, scenario: F) -> F::Output {
        run(&self.runtime(), scenario)
    }

    /// Whether a runtime of this shape has a ring on this machine.
    pub fn has_ring(self) -> bool {
        matches!(self.runtime().driver(), RunningDriver::IoUring { .. })
    }
}

/// Makes a `#[test]` on every shape from each scenario. A scenario is a `fn(Shape)` in the module
/// that uses the macro.
#[macro_export]
macro_rules! on_every_shape {
    ($($scenario:ident),+ $(,)?) => {
        mod default_ring {
            $(#[test] fn $scenario() { super::$scenario($crate::Shape::DEFAULT); })+
        }
        mod ring_of_two_entries {
            $(#[test] fn $scenario() { super::$scenario($crate::Shape::TWO_ENTRIES); })+
        }
        mod tiny_queues_and_pool {
            $(#[test] fn $scenario() { super::$scenario($crate::Shape::TINY); })+
        }
        mod epoll {
            $(#[test] fn $scenario() { super::$scenario($crate::Shape::EPOLL); })+
        }
    };
}
