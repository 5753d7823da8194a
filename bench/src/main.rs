//! The comparison with loops written by hand and with other runtimes. Nothing is measured yet: the
//! contestants come with the benchmarks.

fn main() {
    eprintln!("ebbtide-bench: there is no workload yet");
    std::process::exit(2);
}
