//! [`VmQueues`]: a queue for each VM, so that its jobs run one after the other in the order of arrival.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// The number of queues from which on empty queues are removed.
const MANY: usize = 256;

/// The last ticket of each queue.
#[derive(Default)]
pub(crate) struct VmQueues(Mutex<HashMap<String, oneshot::Receiver<()>>>);

/// A position in a queue. Dropping the ticket makes the next one ready.
pub(crate) struct Ticket {
    before: Option<oneshot::Receiver<()>>,
    _end: oneshot::Sender<()>,
}

impl VmQueues {
    /// Returns a ticket at the end of a queue.
    pub(crate) fn take(&self, queue: &str) -> Ticket {
        let (end, ended) = oneshot::channel();
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = queues.insert(queue.to_owned(), ended);
        if queues.len() > MANY {
            queues.retain(|_, last| matches!(last.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        }
        Ticket { before, _end: end }
    }
}

impl Ticket {
    /// Waits until all earlier tickets are dropped. A caller that stops waiting keeps its position.
    pub(crate) async fn ready(&mut self) {
        if let Some(before) = &mut self.before {
            // The sender is dropped with the earlier ticket; nothing is ever sent.
            let _ = before.await;
            self.before = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn tickets_become_ready_in_the_order_in_which_they_were_taken() {
        let queues = VmQueues::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let tickets: Vec<_> = (0..5).map(|_| queues.take("web")).collect();
        // The tasks start in reverse, so that only the queue decides the order.
        let tasks = tickets.into_iter().enumerate().rev().map(|(number, mut ticket)| {
            let order = order.clone();
            tokio::spawn(async move {
                ticket.ready().await;
                order.lock().unwrap().push(number);
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn queues_are_independent_and_empty_ones_are_removed() {
        let queues = VmQueues::default();
        let _held = queues.take("web");
        queues.take("other").ready().await;
        for number in 0..2 * MANY {
            queues.take(&number.to_string()).ready().await;
        }
        assert!(queues.0.lock().unwrap().len() <= MANY + 1);
        assert!(queues.0.lock().unwrap().contains_key("web"));
    }
}
