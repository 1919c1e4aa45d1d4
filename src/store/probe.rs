//! A partition's counters, and the names of their series in monitoring. The server adds up a
//! shard's partitions.

/// Counters of a partition since it was opened.
#[derive(Clone, Copy, Default, Debug)]
pub struct StoreProbe {
    pub syncs: u64,
    pub batches: u64,
    pub entries: u64,
    pub bytes_written: u64,
    pub messages_stored: u64,
    /// Octets of bodies received, and octets written for them.
    pub body_bytes: u64,
    pub body_bytes_stored: u64,
    pub accounts_in_memory: u64,
    pub checkpoints: u64,
    /// How often the log was reopened in place after a failed write.
    pub reopened: u64,
    /// Segment files and their bytes.
    pub segments: u64,
    pub segment_bytes: u64,
    /// Of these, bytes believed to be garbage.
    pub garbage_bytes: u64,
    pub compactions: u64,
    /// Bytes that compaction wrote.
    pub compacted_bytes: u64,
    /// Segments that compaction deleted.
    pub segments_deleted: u64,
    /// Messages that wait for delivery.
    pub queued: u64,
    /// Segments that compaction keeps because their contents cannot be read.
    pub segments_quarantined: u64,
}

impl StoreProbe {
    /// Each counter with the name of its series; several partitions are summed.
    pub fn series(&self) -> [(&'static str, u64); 18] {
        // Destructured, so that the compiler reports a counter without a series.
        let StoreProbe {
            syncs,
            batches,
            entries,
            bytes_written,
            messages_stored,
            body_bytes,
            body_bytes_stored,
            accounts_in_memory,
            checkpoints,
            reopened,
            segments,
            segment_bytes,
            garbage_bytes,
            compactions,
            compacted_bytes,
            segments_deleted,
            queued,
            segments_quarantined,
        } = *self;
        [
            ("store_syncs_total", syncs),
            ("store_batches_total", batches),
            ("store_entries_total", entries),
            ("store_written_bytes_total", bytes_written),
            ("store_messages_total", messages_stored),
            ("store_body_bytes_total", body_bytes),
            ("store_body_stored_bytes_total", body_bytes_stored),
            ("store_accounts_in_memory", accounts_in_memory),
            ("store_checkpoints_total", checkpoints),
            ("store_reopened_total", reopened),
            ("store_segments", segments),
            ("store_segment_bytes", segment_bytes),
            ("store_garbage_bytes", garbage_bytes),
            ("store_compactions_total", compactions),
            ("store_compacted_bytes_total", compacted_bytes),
            ("store_segments_deleted_total", segments_deleted),
            ("store_queued", queued),
            ("store_segments_quarantined", segments_quarantined),
        ]
    }
}
