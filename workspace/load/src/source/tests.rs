use super::*;
use crate::matching::tally;
use crate::sink::{Extension, Sink, SinkOptions};

const LIMIT: Duration = Duration::from_secs(20);

async fn pass(sink: SinkOptions, change: impl FnOnce(&mut SourceOptions)) -> (Report, crate::sink::Report) {
    let protocol = sink.protocol;
    let sink = Sink::start(sink).unwrap();
    let mut options = SourceOptions { protocol, ..SourceOptions::to(sink.address()) };
    options.reply_timeout = LIMIT;
    change(&mut options);
    let report = tokio::time::timeout(LIMIT, run(options)).await.unwrap();
    (report, sink.stop())
}

#[tokio::test]
async fn every_message_arrives_once_and_whole_over_smtp_and_lmtp() {
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        for pipelining in [Pipelining::Off, Pipelining::Group, Pipelining::Chain] {
            let (report, sink) = pass(SinkOptions { protocol, ..SinkOptions::default() }, |options| {
                options.messages_count = 100;
                options.sessions_count = 7;
                options.octets = SIZES_MIX.to_vec();
                options.pipelining = pipelining;
                options.recipients = vec!["u%d@a.test".to_owned(), "u%d@b.test".to_owned()];
                options.recipients_count = 2;
                options.priorities = vec![-4, 0, 4];
            })
            .await;
            assert_eq!(report.refused, []);
            let tally = tally(std::slice::from_ref(&report), std::slice::from_ref(&sink));
            assert_eq!((tally.submitted, tally.delivered, tally.lost), (200, 200, 0));
            assert_eq!((tally.duplicated, tally.damaged, tally.unacknowledged), (0, 0, 0));
            let intact =
                |receipt: &crate::sink::Receipt| receipt.integrity == crate::content::Integrity::Intact;
            assert!(sink.receipts.iter().all(intact));
            assert!(sink.receipts.iter().all(|receipt| receipt.priority.is_some()));
            assert_eq!(sink.counts.connections, 7);
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_reply_makes_duplicates_not_losses() {
    for pipelining in [Pipelining::Off, Pipelining::Chain] {
        let sink = SinkOptions { close_before_reply_count: Some(5), ..SinkOptions::default() };
        let (report, sink) = pass(sink, |options| {
            options.messages_count = 40;
            options.sessions_count = 3;
            options.pipelining = pipelining;
            options.retry = Some(Retry { delay: Duration::from_millis(5), limit: LIMIT });
        })
        .await;
        let tally = tally(std::slice::from_ref(&report), std::slice::from_ref(&sink));
        assert_eq!((tally.accepted, tally.delivered, tally.lost), (40, 40, 0));
        assert!(tally.duplicated >= 8, "{tally}");
        assert_eq!(tally.duplicated, report.retries_count);
    }
}

#[tokio::test]
async fn without_retry_a_broken_connection_is_named_with_its_message() {
    let sink = SinkOptions { close_before_reply_count: Some(4), ..SinkOptions::default() };
    let (report, sink) = pass(sink, |options| options.messages_count = 8).await;
    assert_eq!((report.accepted_count, report.refused.len()), (6, 2));
    assert_eq!(report.refused[0].code, None);
    assert_eq!(tally(&[report], &[sink]).unacknowledged, 2);
}

#[tokio::test]
async fn a_refused_recipient_does_not_hold_up_the_others() {
    for (pipelining, code) in [(Pipelining::Off, 550), (Pipelining::Group, 550), (Pipelining::Chain, 450)] {
        let rule = crate::sink::RejectRule { pattern: "bad".to_owned(), code };
        let sink = SinkOptions { reject_recipients: vec![rule], ..SinkOptions::default() };
        let (report, sink) = pass(sink, |options| {
            options.messages_count = 6;
            options.recipients = vec!["bad%d@a.test".to_owned(), "good%d@a.test".to_owned()];
            options.recipients_count = 2;
            options.pipelining = pipelining;
        })
        .await;
        assert_eq!((report.accepted_count, report.refused.len()), (6, 6));
        assert!(report.refused.iter().all(|refusal| refusal.code == Some(code)));
        assert_eq!(sink.counts.rejected, 6);
    }
}

#[tokio::test]
async fn when_every_recipient_is_refused_the_session_goes_on() {
    for pipelining in [Pipelining::Off, Pipelining::Group, Pipelining::Chain] {
        let reject_recipients = vec!["user1@".parse().unwrap()];
        let sink = SinkOptions { reject_recipients, ..SinkOptions::default() };
        let (report, sink) = pass(sink, |options| {
            options.messages_count = 3;
            options.recipients = vec!["user%d@a.test".to_owned()];
            options.pipelining = pipelining;
        })
        .await;
        assert_eq!((report.accepted_count, report.refused.len(), sink.counts.connections), (2, 1, 1));
    }
}

#[tokio::test]
async fn connections_are_given_up_after_as_many_messages_as_told() {
    let (report, sink) = pass(SinkOptions::default(), |options| {
        options.messages_count = 9;
        options.messages_per_connection = Some(2);
        options.pipelining = Pipelining::Chain;
    })
    .await;
    assert_eq!((report.accepted_count, sink.counts.connections), (9, 5));
    let dropping = SinkOptions { drop_after_count: Some(3), ..SinkOptions::default() };
    let (report, sink) = pass(dropping, |options| {
        options.messages_count = 9;
        options.retry = Some(Retry { delay: Duration::from_millis(1), limit: LIMIT });
    })
    .await;
    assert_eq!((report.accepted_count, sink.counts.duplicated), (9, 0));
}

#[tokio::test]
async fn a_server_without_extensions_gets_neither_pipelining_nor_priorities() {
    let sink = SinkOptions { without: Extension::ALL.to_vec(), ..SinkOptions::default() };
    let (report, sink) = pass(sink, |options| {
        options.messages_count = 5;
        options.priorities = vec![9];
        options.pipelining = Pipelining::Chain;
    })
    .await;
    assert_eq!(report.accepted_count, 5);
    assert!(sink.receipts.iter().all(|receipt| receipt.priority.is_none()));
}

#[tokio::test]
async fn a_run_starts_before_its_server_when_it_may_retry() {
    let first = Sink::start(SinkOptions::default()).unwrap();
    let address = first.address();
    drop(first);
    let retry = Some(Retry { delay: Duration::from_millis(5), limit: LIMIT });
    let progress = Arc::new(Progress::default());
    let options = SourceOptions { messages_count: 3, retry, ..SourceOptions::to(address) };
    let source = tokio::spawn(run_with(options, Arc::clone(&progress)));
    while progress.troubles_count() == 0 {
        tokio::task::yield_now().await;
    }
    let sink = Sink::start(SinkOptions { listen: address, ..SinkOptions::default() }).unwrap();
    assert!(sink.arrived(3, LIMIT).await);
    let report = source.await.unwrap();
    assert_eq!(report.accepted_count, 3);
    assert!(report.retries_count > 0);
    let closed = run(SourceOptions { messages_count: 1, ..SourceOptions::to(address) });
    drop(sink);
    assert_eq!(closed.await.refused.len(), 1);
}

#[tokio::test]
async fn a_rate_spreads_the_messages_and_stop_ends_the_run_early() {
    let sink = Sink::start(SinkOptions::default()).unwrap();
    let progress = Arc::new(Progress::default());
    let options = SourceOptions {
        messages_count: 1_000_000,
        rate_per_s: Some(200.0),
        ..SourceOptions::to(sink.address())
    };
    let source = tokio::spawn(run_with(options, Arc::clone(&progress)));
    assert!(sink.arrived(20, LIMIT).await);
    progress.stop();
    let report = source.await.unwrap();
    assert_eq!(report.accepted_count, report.messages_count);
    assert_eq!(report.accepted_count, progress.accepted_count());
    assert!(report.rate_per_s < 300.0, "{}", report.rate_per_s);
}

#[tokio::test]
async fn mail_goes_inside_tls_when_it_shall_and_not_at_all_when_it_cannot() {
    let sink = SinkOptions { offers_tls: true, ..SinkOptions::default() };
    let (report, sink) = pass(sink, |options| {
        options.tls = Tls::StartTls;
        options.messages_count = 20;
        options.sessions_count = 2;
        options.octets = SIZES_MIX.to_vec();
    })
    .await;
    assert_eq!((report.refused.len(), sink.counts.received, sink.counts.damaged), (0, 20, 0));
    let (report, sink) = pass(SinkOptions::default(), |options| options.tls = Tls::StartTls).await;
    assert_eq!((report.refused.len(), sink.counts.received), (1, 0));
}
