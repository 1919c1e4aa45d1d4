//! How much CPU does the log take for a message, without the device?
//!
//! `cargo bench --bench log_append`. One iteration appends 100 entries, covered by one sync, and
//! waits for the last of them: divide by 100. The device accepts and discards everything, so the
//! figure is copying, two checksums per byte, and the bookkeeping of one group commit.

use std::{hint::black_box, io, rc::Rc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringmail::{
    model::{AccountId, MailboxId, PartitionId, Uid},
    runtime::{
        LocalFuture,
        device::{Device, File},
        simulation::Simulation,
    },
    store::log::{EntryHeader, EntryKind, Log, LogOptions},
};

/// Messages per sync: as at 100 busy connections.
const BATCH: usize = 100;

/// Every write succeeds at once and is forgotten.
struct NullDevice;

struct NullFile;

impl Device for NullDevice {
    fn create(&self, _name: &str, _size: u64) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        Box::pin(async { Ok(Rc::new(NullFile) as Rc<dyn File>) })
    }
    fn open(&self, _name: &str) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
    }
    fn sync_directory(&self) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn delete(&self, _name: &str) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn reserve(&self, _name: &str, _len: u64) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn free_space(&self) -> LocalFuture<'_, io::Result<Option<u64>>> {
        Box::pin(async { Ok(None) })
    }
    fn list(&self) -> LocalFuture<'_, io::Result<Vec<String>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

impl File for NullFile {
    fn append(&self, _offset: u64, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)> {
        Box::pin(async move { (Ok(()), black_box(bytes)) })
    }
    fn read_at(&self, _offset: u64, _len: usize) -> LocalFuture<'_, io::Result<Vec<u8>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn sync(&self) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn len(&self) -> LocalFuture<'_, io::Result<u64>> {
        Box::pin(async { Ok(0) })
    }
}

fn append(criterion: &mut Criterion) {
    let simulation = Simulation::new(1);
    let options = LogOptions {
        partition: PartitionId(0),
        segment_size: 64 * 1024 * 1024,
        write_buffer: 8 * 1024 * 1024,
    };
    let (device, executor) = (Rc::new(NullDevice), Rc::new(simulation.clone()));
    let (log, _) = simulation
        .run_until(async {
            let recovered = Log::recover(device, executor, options).await?;
            recovered.replay(&mut |_, _, _| Ok(())).await
        })
        .expect("an empty log opens");
    let header = EntryHeader::new(EntryKind::Message, AccountId(1), MailboxId::INBOX, Uid(1));
    let mut group = criterion.benchmark_group("log_append");
    for size in [512, 4096, 64 * 1024] {
        let payload = vec![b'x'; size];
        group.throughput(Throughput::Bytes((size * BATCH) as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                simulation.run_until(async {
                    let mut last = None;
                    for _ in 0..BATCH {
                        last = log.append(header, &[black_box(&payload)]).ok();
                    }
                    log.durable(last.expect("appended")).await.expect("durable");
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
