//! A hierarchical timer wheel: returns the values that are due at a tick, in O(1) per value.
//!
//! The wheel is pure. It reads no clock and wakes nobody. Time is an argument, counted in ticks,
//! and what has expired is returned.
//!
//! A tick is read as a number in base 64, with one digit per level. An entry is on the level of the
//! most significant digit in which its deadline differs from the present. It is in the slot that
//! this digit of the deadline names.
//!
//! ```text
//!   now       =  0  7 12      (base 64)
//!   deadline  =  0  7 40      differs first in digit 0: level 0, slot 40, one tick wide
//!   deadline  =  0  9  3      differs first in digit 1: level 1, slot  9, 64 ticks wide
//!   deadline  =  2  0  0      differs first in digit 2: level 2, slot  2, 4096 ticks wide
//! ```
//!
//! Invariant (*place*): between calls, every entry is at the place that [`Place::of`] computes from
//! its deadline and the present. Three things follow:
//!
//! - Entries on a lower level are due before those on a higher one. On one level, the lower slot is
//!   due first: slots never wrap around. So the lowest bit of the lowest level in use is the
//!   earliest slot.
//! - An entry need not store its place.
//! - Entries with the same deadline are always in the same list, so they expire in the order in
//!   which they were inserted.
//!
//! When time reaches a slot above level 0, its entries move down, each by at least one level. So an
//! entry moves at most ten times, and one that is removed early usually never does. Eleven levels
//! cover the 64 bits of a tick, so no deadline is too far and there is no overflow list. Unused
//! levels cost memory, but no time.

use slab::Slab;

/// How many bits of a tick are one digit, which selects the slot on a level.
const DIGIT_BITS: u32 = 6;

/// Slots per level: one for each value of a digit, and one for each bit of a `u64`.
const SLOT_COUNT: usize = 1 << DIGIT_BITS;

/// Number of digits of a `u64`, so that every deadline has a place.
const LEVEL_COUNT: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// Values with deadlines, ordered just enough to find those that are due.
pub(crate) struct Wheel<T> {
    /// The latest tick that was passed to `expire`. Never decreases.
    now: u64,
    /// For each level: bit `slot` is set exactly when the list of that slot is not empty. It is
    /// separate from the lists, so that finding the earliest slot reads only two cache lines.
    occupied: [u64; LEVEL_COUNT],
    /// The lists, on the heap because they are 22 KiB.
    slots: Box<[[List; SLOT_COUNT]; LEVEL_COUNT]>,
    /// All entries, each linked into exactly one list.
    entries: Slab<Entry<T>>,
    /// The serial number of the next entry.
    next_serial: u64,
}

/// Identifies an entry as long as it is in the wheel. After that, it never identifies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: usize,
    /// The serial number of the entry. It counts the inserts of the whole wheel, so it does not
    /// wrap within centuries.
    serial: u64,
}

struct Entry<T> {
    /// Not before the tick at which the entry was inserted.
    deadline: u64,
    serial: u64,
    previous: Option<usize>,
    next: Option<usize>,
    value: T,
}

/// A doubly linked list of entries, by index, oldest first.
#[derive(Clone, Copy)]
struct List {
    head: Option<usize>,
    tail: Option<usize>,
}

impl List {
    const EMPTY: Self = Self { head: None, tail: None };
}

/// The list that an entry belongs to.
#[derive(Clone, Copy)]
struct Place {
    level: usize,
    slot: usize,
}

impl Place {
    /// The place of an entry with this deadline at this time, which must not be later than the
    /// deadline.
    fn of(deadline: u64, now: u64) -> Self {
        debug_assert!(now <= deadline);
        // The lowest bit is set so that a deadline equal to `now` counts as different in digit 0.
        let highest_difference = ((deadline ^ now) | 1).ilog2();
        let level = highest_difference / DIGIT_BITS;
        let digit = (deadline >> (level * DIGIT_BITS)) % SLOT_COUNT as u64;
        Self { level: level as usize, slot: usize::try_from(digit).expect("it is small") }
    }

    /// The first tick of this slot: the digits above are those of `now`, the digits below are zero.
    fn start(self, now: u64) -> u64 {
        let shift = u32::try_from(self.level).expect("there are few") * DIGIT_BITS;
        let digits_above = (now >> shift) & !(SLOT_COUNT as u64 - 1);
        (digits_above | self.slot as u64) << shift
    }
}

impl<T> Wheel<T> {
    /// An empty wheel, at tick 0.
    #[cfg_attr(
        not(any(test, ebbtide_model)),
        expect(clippy::large_stack_arrays, reason = "made once for each runtime, and boxed")
    )]
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            occupied: [0; LEVEL_COUNT],
            slots: Box::new([[List::EMPTY; SLOT_COUNT]; LEVEL_COUNT]),
            entries: Slab::new(),
            next_serial: 0,
        }
    }

    /// Inserts a value that is due at `deadline_tick`. A deadline in the past counts as the present
    /// tick: the value is due at the next [`expire`](Self::expire), after overdue values that were
    /// inserted before it.
    pub(crate) fn insert(&mut self, deadline_tick: u64, value: T) -> Key {
        let serial = self.next_serial;
        self.next_serial += 1;
        let index = self.entries.insert(Entry {
            deadline: deadline_tick.max(self.now),
            serial,
            previous: None,
            next: None,
            value,
        });
        self.link(index);
        Key { index, serial }
    }

    /// Removes a value before it expires. `None` if it has expired or was removed.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        self.unlink(key.index);
        Some(self.entries.remove(key.index).value)
    }

    /// Returns the value, if it has neither expired nor been removed.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.index)?;
        (entry.serial == key.serial).then_some(&entry.value)
    }

    /// Returns the value for changing it, if it has neither expired nor been removed.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index)?;
        (entry.serial == key.serial).then_some(&mut entry.value)
    }

    /// Moves time forward to `now_tick`, and appends every value that is due by then, in the order
    /// of the deadlines, then of insertion. A `now_tick` in the past does nothing.
    pub(crate) fn expire(&mut self, now_tick: u64, expired: &mut Vec<T>) {
        // A slot never starts before `self.now`, so the loop is not entered for a `now_tick` in the
        // past.
        while let Some(place) = self.earliest() {
            let start = place.start(self.now);
            if start > now_tick {
                break;
            }
            // Everything earlier has expired, so time may move here. Only the entries of this slot
            // are now out of place, and all of them leave it.
            self.now = start;
            let entries = self.take(place);
            if place.level == 0 {
                self.retire(entries, expired);
            } else {
                self.move_down(entries);
            }
        }
        // Every slot that is left starts after `now_tick`. So `now_tick` has the digits that the
        // entries of such a slot share with `self.now`, and a smaller digit where they differ. No
        // entry changes its place.
        self.now = self.now.max(now_tick);
    }

    /// The tick at which [`expire`](Self::expire) has to be called next. `None` if the wheel is
    /// empty. It is never late. It is early if the next entry is on a higher level, whose slots are
    /// wide: the entry then moves down, and the next result is closer.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        Some(self.earliest()?.start(self.now))
    }

    /// How many values are in the wheel.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the wheel has no values.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot with the earliest deadline. By the place invariant, it is the lowest one of the
    /// lowest level in use.
    fn earliest(&self) -> Option<Place> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        Some(Place { level, slot })
    }

    /// Returns the values of a list that is due, oldest first.
    fn retire(&mut self, list: List, expired: &mut Vec<T>) {
        let mut cursor = list.head;
        while let Some(index) = cursor {
            let entry = self.entries.remove(index);
            debug_assert_eq!(entry.deadline, self.now);
            cursor = entry.next;
            expired.push(entry.value);
        }
    }

    /// Moves the entries of a slot that time has reached to their new places, oldest first. The
    /// levels below are empty when this begins, so the order of equal deadlines is kept.
    fn move_down(&mut self, list: List) {
        let mut cursor = list.head;
        while let Some(index) = cursor {
            cursor = self.entries[index].next;
            self.link(index);
        }
    }

    /// Empties a slot, and returns its list. The entries are then in no list.
    fn take(&mut self, place: Place) -> List {
        self.occupied[place.level] &= !(1 << place.slot);
        std::mem::replace(&mut self.slots[place.level][place.slot], List::EMPTY)
    }

    /// Appends an entry that is in no list to the list that it belongs to.
    fn link(&mut self, index: usize) {
        let Place { level, slot } = Place::of(self.entries[index].deadline, self.now);
        let list = &mut self.slots[level][slot];
        let previous = list.tail.replace(index);
        match previous {
            Some(previous) => self.entries[previous].next = Some(index),
            None => list.head = Some(index),
        }
        let entry = &mut self.entries[index];
        entry.previous = previous;
        entry.next = None;
        self.occupied[level] |= 1 << slot;
    }

    /// Removes an entry from its list.
    fn unlink(&mut self, index: usize) {
        let entry = &self.entries[index];
        let (previous, next) = (entry.previous, entry.next);
        let Place { level, slot } = Place::of(entry.deadline, self.now);
        let list = &mut self.slots[level][slot];
        match previous {
            Some(previous) => self.entries[previous].next = next,
            None => list.head = next,
        }
        match next {
            Some(next) => self.entries[next].previous = previous,
            None => list.tail = previous,
        }
        if list.head.is_none() {
            self.occupied[level] &= !(1 << slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_value_is_due_at_its_tick_and_not_before() {
        for deadline in [1, 2, 63, 64, 65, 4095, 4096, 4097, 1 << 40, u64::MAX] {
            let mut wheel = Wheel::new();
            wheel.insert(deadline, "value");
            assert_eq!(expire(&mut wheel, deadline - 1), [""; 0], "{deadline}");
            assert_eq!(expire(&mut wheel, deadline), ["value"], "{deadline}");
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn values_of_one_tick_leave_in_the_order_in_which_they_came() {
        let mut wheel = Wheel::new();
        wheel.insert(5000, 'a'); // level 2
        wheel.insert(5000, 'b');
        assert_eq!(expire(&mut wheel, 4990), []);
        wheel.insert(5000, 'c'); // level 0, as 'a' and 'b' are by now
        assert_eq!(expire(&mut wheel, 6000), ['a', 'b', 'c']);
    }

    #[test]
    fn one_long_step_hands_out_everything_in_deadline_order() {
        let mut wheel = Wheel::new();
        for deadline in [70_000, 3, 64, 1 << 30, 63, 4096, 65] {
            wheel.insert(deadline, deadline);
        }
        let expected = [3, 63, 64, 65, 4096, 70_000];
        assert_eq!(expire(&mut wheel, 1 << 20), expected);
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_the_next_call_even_within_the_same_tick() {
        let mut wheel = Wheel::new();
        assert_eq!(expire(&mut wheel, 1000), []);
        wheel.insert(7, 'a');
        wheel.insert(1000, 'b');
        assert_eq!(wheel.next_deadline(), Some(1000));
        assert_eq!(expire(&mut wheel, 1000), ['a', 'b']);
    }

    #[test]
    fn time_does_not_go_back() {
        let mut wheel = Wheel::new();
        assert_eq!(expire(&mut wheel, 1000), []);
        wheel.insert(500, 'a');
        assert_eq!(expire(&mut wheel, 999), []);
        assert_eq!(wheel.len(), 1);
        assert_eq!(expire(&mut wheel, 1000), ['a']);
    }

    #[test]
    fn a_removed_value_does_not_expire_and_its_neighbours_do() {
        for removed in 0..3 {
            let mut wheel = Wheel::new();
            let keys = [0, 1, 2].map(|value| wheel.insert(100, value));
            assert_eq!(wheel.remove(keys[removed]), Some(removed));
            assert_eq!(wheel.remove(keys[removed]), None);
            let mut left = vec![0, 1, 2];
            left.remove(removed);
            assert_eq!(expire(&mut wheel, 100), left);
        }
    }

    #[test]
    fn removing_the_last_value_of_a_slot_leaves_nothing_to_wait_for() {
        let mut wheel = Wheel::new();
        let near = wheel.insert(10, 'a');
        let far = wheel.insert(10_000, 'b');
        assert_eq!(wheel.next_deadline(), Some(10));
        assert_eq!(wheel.remove(near), Some('a'));
        assert_eq!(wheel.next_deadline(), Some(2 * 4096));
        assert_eq!(wheel.remove(far), Some('b'));
        assert_eq!(wheel.next_deadline(), None);
    }

    // Fails when the serial is left out of the comparison in `get`.
    #[test]
    fn a_key_that_outlived_its_entry_does_not_reach_the_next_one_in_its_place() {
        let mut wheel = Wheel::new();
        let old = wheel.insert(1, 'a');
        assert_eq!(expire(&mut wheel, 1), ['a']);
        let new = wheel.insert(2, 'b');
        assert_eq!(old.index, new.index, "the test needs the slab to reuse it");
        assert_eq!(wheel.remove(old), None);
        assert_eq!(wheel.get_mut(old), None);
        assert_eq!(wheel.get_mut(new), Some(&mut 'b'));
    }

    #[test]
    fn calling_again_at_the_next_deadline_arrives_in_at_most_one_step_per_level() {
        for deadline in [1, 100, 3_600_000, 1 << 40, u64::MAX / 3, u64::MAX] {
            let mut wheel = Wheel::new();
            wheel.insert(deadline, ());
            let mut steps = 0;
            while let Some(tick) = wheel.next_deadline() {
                assert!(tick <= deadline);
                wheel.expire(tick, &mut Vec::new());
                steps += 1;
            }
            assert_eq!(wheel.now, deadline);
            assert!(steps <= LEVEL_COUNT, "{steps} steps to {deadline}");
        }
    }

    #[test]
    fn a_million_armed_and_cancelled_leave_no_trace() {
        let count = if cfg!(miri) { 1_000 } else { 1_000_000 };
        let mut wheel = Wheel::new();
        let keys: Vec<_> = (0..count).map(|n| wheel.insert(30_000 + n % 7, n)).collect();
        for (n, key) in keys.into_iter().enumerate() {
            assert_eq!(wheel.remove(key), Some(n as u64));
        }
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn random_operations_agree_with_a_sorted_map() {
        let (seed_count, step_count) = if cfg!(miri) { (3, 100) } else { (500, 1_000) };
        for seed in 0..seed_count {
            compare_with_sorted_map(seed, step_count);
        }
    }

    /// Applies the same operations to a wheel and to a map that is ordered by deadline, then by
    /// insertion. Compares them after each.
    fn compare_with_sorted_map(seed: u64, step_count: usize) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut wheel = Wheel::new();
        let mut model = BTreeMap::new();
        let mut keys = Vec::new();
        let mut now = 0_u64;

        for serial in 0..step_count {
            match random.u64(..8) {
                0..=3 => {
                    // From long overdue to far ahead, in every order of magnitude.
                    let ahead = now.saturating_add(of_any_magnitude(&mut random));
                    let deadline = ahead.saturating_sub(random.u64(..100));
                    let key = wheel.insert(deadline, serial);
                    let model_key = (deadline.max(now), serial);
                    model.insert(model_key, serial);
                    keys.push((key, model_key));
                }
                4 | 5 if !keys.is_empty() => {
                    // The key stays in the list: every later use of it must find nothing.
                    let (key, model_key) = keys[random.usize(..keys.len())];
                    let expected = model.remove(&model_key);
                    assert_eq!(wheel.get_mut(key).copied(), expected, "seed {seed}");
                    assert_eq!(wheel.remove(key), expected, "seed {seed}");
                }
                6 if !wheel.is_empty() => {
                    let tick = wheel.next_deadline().expect("the wheel is not empty");
                    now = now.max(tick);
                    let expected = model_expire(&mut model, now);
                    assert_eq!(expire(&mut wheel, tick), expected, "seed {seed}");
                }
                _ => {
                    // Mostly small steps, so that time stays near the deadlines.
                    let step = of_any_magnitude(&mut random) >> random.u64(..64);
                    let target = now.saturating_add(step).saturating_sub(random.u64(..3));
                    let expected = if target < now {
                        Vec::new()
                    } else {
                        now = target;
                        model_expire(&mut model, now)
                    };
                    assert_eq!(expire(&mut wheel, target), expected, "seed {seed}");
                }
            }
            compare_state(&wheel, &model, now, seed);
        }
        let everything: Vec<_> = model.into_values().collect();
        assert_eq!(expire(&mut wheel, u64::MAX), everything, "seed {seed}");
        assert!(wheel.is_empty(), "seed {seed}");
    }

    fn compare_state(
        wheel: &Wheel<usize>,
        model: &BTreeMap<(u64, usize), usize>,
        now: u64,
        seed: u64,
    ) {
        assert_eq!(wheel.now, now, "seed {seed}");
        assert_eq!(wheel.len(), model.len(), "seed {seed}");
        let earliest = model.keys().next().map(|&(deadline, _)| deadline);
        match (wheel.next_deadline(), earliest) {
            (None, None) => {}
            (Some(tick), Some(earliest)) => {
                assert!(now <= tick && tick <= earliest, "seed {seed}");
                assert_eq!(tick == earliest, tick_is_exact(wheel, earliest), "seed {seed}");
            }
            (tick, earliest) => panic!("{tick:?} for {earliest:?}, seed {seed}"),
        }
    }

    /// A result is early only for an entry above level 0 that is not due at the start of its slot.
    fn tick_is_exact(wheel: &Wheel<usize>, deadline: u64) -> bool {
        let place = Place::of(deadline, wheel.now);
        place.level == 0 || place.start(wheel.now) == deadline
    }

    fn model_expire(model: &mut BTreeMap<(u64, usize), usize>, now: u64) -> Vec<usize> {
        let mut expired = Vec::new();
        while let Some(first) = model.first_entry()
            && first.key().0 <= now
        {
            expired.push(first.remove());
        }
        expired
    }

    fn expire<T>(wheel: &mut Wheel<T>, now_tick: u64) -> Vec<T> {
        let mut expired = Vec::new();
        wheel.expire(now_tick, &mut expired);
        expired
    }

    fn of_any_magnitude(random: &mut fastrand::Rng) -> u64 {
        let shift = random.u64(..64);
        random.u64(..) >> shift
    }
}
