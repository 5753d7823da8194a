//! [`Choices`]: who moves next, and which of its options the kernel takes.

/// A source of decisions: random ones from a seed, or always the first option.
pub(crate) struct Choices {
    /// `None`: always the first option, for comparison with the real kernel.
    random: Option<fastrand::Rng>,
}

impl Choices {
    /// Every decision follows from `seed`.
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self { random: Some(fastrand::Rng::with_seed(seed)) }
    }

    /// The kernel does what it does when nothing disturbs it.
    pub(crate) fn undisturbed() -> Self {
        Self { random: None }
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.random.as_mut().map_or(0, |random| random.usize(..bound))
    }

    /// A number from `least` to `most`, inclusive.
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.random.as_mut().is_some_and(|random| random.usize(..100) < percent)
    }

    /// One of `options`, which is not empty.
    pub(crate) fn one_of<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }

    /// Shuffles `items`.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        if let Some(random) = &mut self.random {
            random.shuffle(items);
        }
    }
}
