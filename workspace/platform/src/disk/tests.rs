//! Both ways of writing, on a file.

use super::*;
use rustix::event::{PollFd, PollFlags, poll};
use sternpost_message::UnixMillis;

const OCTETS: u64 = 1 << 20;

const BOTH: [DiskBackend; 2] = [DiskBackend::Dsync, DiskBackend::IoUring];

/// Opens, or gives none where the kernel has no rings to give; the other way is tested all the same.
fn open(path: &Path, backend: DiskBackend) -> Option<LogDisk> {
    match open_log_disk(path, backend, OCTETS) {
        Err(DiskOpenError::Ring(error)) => {
            eprintln!("no ring here: {error}");
            None
        }
        other => Some(other.unwrap()),
    }
}

fn wait(disk: &mut LogDisk) -> (AlignedBuffer, Result<(), DiskError>) {
    for _ in 0..1000 {
        if let Some(finished) = disk.finish_write() {
            return finished;
        }
        let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready =
            poll(&mut [PollFd::from_borrowed_fd(disk.readiness(), PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "the end of a write makes the descriptor readable");
    }
    panic!("the write does not end");
}

#[test]
fn what_was_written_is_read_back_also_by_the_next_owner() {
    for backend in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let Some(mut disk) = open(&path, backend) else { continue };
        assert_eq!((disk.octets(), disk.backend()), (OCTETS, backend));
        let mut buffer = AlignedBuffer::from_octets(&[1; 8192]);
        for round in 1..=20_u8 {
            buffer.as_mut_slice().fill(round);
            disk.start_write(u64::from(round) * 8192, buffer).unwrap();
            assert_eq!(disk.start_write(0, AlignedBuffer::from_octets(&[9])), Err(DiskError::Busy));
            let (back, result) = wait(&mut disk);
            assert_eq!(result, Ok(()));
            buffer = back;
        }
        assert!(disk.finish_write().is_none());
        disk.write_now(0, &AlignedBuffer::from_octets(b"head")).unwrap();
        // A write under way when the disk is dropped is complete afterwards.
        buffer.as_mut_slice().fill(77);
        disk.start_write(4096 * 100, buffer).unwrap();
        drop(disk);
        let mut disk = open(&path, backend).unwrap();
        let mut octets = [0; 10_000];
        disk.read(8192 - 5, &mut octets).unwrap();
        assert!(octets[..5].iter().all(|octet| *octet == 0));
        assert!(octets[5..8197].iter().all(|octet| *octet == 1));
        assert!(octets[8197..].iter().all(|octet| *octet == 2));
        let mut page = AlignedBuffer::from_octets(&[0; 4096]);
        disk.read(4096 * 101, page.as_mut_slice()).unwrap();
        assert!(page.as_slice().iter().all(|octet| *octet == 77));
        disk.read(0, &mut octets[..4]).unwrap();
        assert_eq!(&octets[..4], b"head");
    }
}

#[test]
fn a_second_owner_is_refused_as_long_as_the_first_one_lives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let disk = open(&path, DiskBackend::Dsync).unwrap();
    assert!(matches!(open_log_disk(&path, DiskBackend::Dsync, OCTETS), Err(DiskOpenError::Locked(_))));
    drop(disk);
    open(&path, DiskBackend::Dsync).unwrap();
}

#[test]
fn a_range_beyond_the_disk_or_off_a_page_is_refused() {
    for backend in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut disk) = open(&folder.path().join("log"), backend) else { continue };
        let page = || AlignedBuffer::from_octets(&[1]);
        for offset in [OCTETS, 512, u64::MAX - 4095] {
            assert!(matches!(disk.start_write(offset, page()), Err(DiskError::Range { .. })));
            assert!(matches!(disk.write_now(offset, &page()), Err(DiskError::Range { .. })));
        }
        assert!(matches!(disk.read(OCTETS - 1, &mut [0; 2]), Err(DiskError::Range { .. })));
    }
}

#[test]
fn zeroing_covers_the_disk_and_tells_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, vec![5; 1 << 20]).unwrap();
    let mut disk = open(&path, DiskBackend::Dsync).unwrap();
    let mut last = (0, 0);
    disk.zero(&mut |done, total| {
        last = (done, total);
        true
    })
    .unwrap();
    assert_eq!(last, (OCTETS, OCTETS));
    let mut octets = vec![1; 300_000];
    disk.read(0, &mut octets).unwrap();
    assert!(octets.iter().all(|octet| *octet == 0));
}

#[test]
fn a_device_that_is_not_there_is_not_made_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    let device = Path::new("/dev/sternpost-no-such-device");
    std::os::unix::fs::symlink(device, &link).unwrap();
    for path in [device, &link] {
        let error = open_log_disk(path, DiskBackend::Dsync, OCTETS).err().unwrap();
        assert_eq!(error.to_string(), format!("cannot open {}", path.display()));
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(reason, "there is no such device; look at lsblk and correct [queue] path");
        assert!(!device.exists());
    }
}

#[test]
fn a_file_in_dev_is_refused_and_stays_as_it_is() {
    // Where there is no such folder, nothing can be tried without touching /dev itself.
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = folder.path().join("vdb");
    std::fs::write(&path, b"").unwrap();
    let error = open_log_disk(&path, DiskBackend::Dsync, OCTETS).err().unwrap();
    assert!(matches!(error, DiskOpenError::Step { step: "open", .. }), "{error}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn only_an_empty_file_is_grown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, b"").unwrap();
    assert_eq!(open_log_disk(&path, DiskBackend::Dsync, 0).unwrap().octets(), 0);
    assert_eq!(open(&path, DiskBackend::Dsync).unwrap().octets(), OCTETS);
    assert!(open(&path, DiskBackend::Dsync).unwrap().is_blank().unwrap());
    // Blank and too small for what is asked: nothing says that it was made for a log.
    let larger = open_log_disk(&path, DiskBackend::Dsync, 2 * OCTETS);
    assert!(
        matches!(larger, Err(DiskOpenError::Unfit { octets: OCTETS, wanted, .. }) if wanted == 2 * OCTETS)
    );
    assert_eq!(std::fs::metadata(&path).unwrap().len(), OCTETS);
}

#[test]
fn what_is_not_blank_is_opened_at_its_own_size_whatever_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut octets = vec![0; 300_000];
    for place in [0, 40_000, 65_535] {
        octets.fill(0);
        octets[place] = 1;
        std::fs::write(&path, &octets).unwrap();
        for wanted in [0, 4096, OCTETS] {
            let disk = open_log_disk(&path, DiskBackend::Dsync, wanted).unwrap();
            assert_eq!((disk.octets(), disk.is_blank()), (300_000, Ok(false)), "octet {place}");
        }
    }
    // Shorter than a page.
    std::fs::write(&path, b"oops").unwrap();
    let disk = open_log_disk(&path, DiskBackend::Dsync, OCTETS).unwrap();
    assert_eq!((disk.octets(), disk.is_blank()), (4, Ok(false)));
}

#[test]
fn a_log_lives_on_either_disk_and_moves_between_them() {
    use sternpost_queue::{Geometry, Log, Parameters, SEGMENT_OCTETS_MIN, SEGMENTS_MIN};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments: SEGMENTS_MIN };
    let disk = open_log_disk(&path, DiskBackend::Dsync, geometry.octets()).unwrap();
    drop(Log::create(disk, geometry, [1; 16]).unwrap());
    for backend in [DiskBackend::IoUring, DiskBackend::Dsync, DiskBackend::IoUring] {
        let Ok(disk) = open_log_disk(&path, backend, 0) else { continue };
        let (mut log, report) = Log::open(disk, Parameters::default(), UnixMillis(1)).unwrap();
        assert_eq!(report.damage, []);
        let before = log.status().sequence;
        log.append(UnixMillis(1), sternpost_queue::Lane::Normal, sternpost_queue::AppendSet::default(), 5)
            .unwrap();
        log.drive(UnixMillis(1));
        while log.is_writing() {
            let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
            let ready =
                poll(&mut [PollFd::from_borrowed_fd(log.disk().readiness(), PollFlags::IN)], Some(&timeout))
                    .unwrap();
            assert_eq!(ready, 1);
            log.drive(UnixMillis(1));
        }
        assert_eq!(log.poll(), Some(sternpost_queue::LogEvent::Committed { ticket: 5 }));
        assert_eq!(log.status().sequence, before + 1);
    }
}

#[test]
fn a_write_that_the_device_refuses_is_told_of_by_either_disk_once_for_each() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    for backend in BOTH {
        let file = memfd_create("log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, OCTETS).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let Some(mut disk) = open(Path::new(&path), backend) else { continue };
        disk.start_write(0, AlignedBuffer::from_octets(&[1; 8192])).unwrap();
        let (buffer, result) = wait(&mut disk);
        assert_eq!(result, Ok(()));
        // Memory that is sealed takes no write.
        fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
        disk.start_write(0, buffer).unwrap();
        let (buffer, result) = wait(&mut disk);
        assert!(matches!(result, Err(DiskError::Device { action: "write", offset: 0, .. })), "{result:?}");
        assert!(disk.finish_write().is_none());
        disk.start_write(4096, buffer).unwrap();
        let (_, result) = wait(&mut disk);
        assert!(matches!(result, Err(DiskError::Device { action: "write", offset: 4096, .. })), "{result:?}");
    }
}
