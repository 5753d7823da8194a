// The plain form of a fuzz target. The test beside its properties includes it. It needs no
// libFuzzer, runs on every toolchain, and makes the same mutations at every run.

/// How many mutated inputs a run of a test checks.
const MUTATIONS: u64 = if cfg!(miri) { 50 } else { 20_000 };

/// Checks `holds` on every input of a corpus, and on seeded mutations of these inputs.
fn replay(corpus: &str, holds: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(corpus);
    let mut inputs: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    let holds_for = |what: &str, input: &[u8]| {
        if let Err(panic) = std::panic::catch_unwind(|| holds(input)) {
            println!("{what} of {corpus}: {input:02x?}");
            std::panic::resume_unwind(panic);
        }
    };
    for (path, input) in &inputs {
        holds_for(path, input);
    }
    for seed in 0..MUTATIONS {
        holds_for(&format!("mutation {seed}"), &mutated(&inputs, seed));
    }
}

/// An input of the corpus with one to four changes of the kinds that fuzzers make.
fn mutated(inputs: &[(String, Vec<u8>)], seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut below = |limit: usize| random.usize(..limit.max(1));
    let mut input = inputs[below(inputs.len())].1.clone();
    for _ in 0..=below(4) {
        let at = below(input.len());
        match below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << below(8),
            1 if !input.is_empty() => input[at] = below(256) as u8,
            2 => input.truncate(at),
            3 => input.extend((0..below(64)).map(|_| below(256) as u8)),
            4 if input.len() >= 4 => {
                let at = below(input.len() - 3);
                let value = [0, 1, 16, 255, 0x8000_0000, u32::MAX][below(6)];
                input[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            }
            _ => {
                let other = &inputs[below(inputs.len())].1;
                input.truncate(at);
                input.extend(&other[below(other.len())..]);
            }
        }
    }
    input
}
