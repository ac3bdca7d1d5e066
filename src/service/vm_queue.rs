//! [`VmQueues`]: one after the other for each VM, in the order of arrival.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// From this many VMs on, those are forgotten whose last turn is over.
const MANY: usize = 256;

/// Who is last in each queue.
#[derive(Default)]
pub(crate) struct VmQueues(Mutex<HashMap<String, oneshot::Receiver<()>>>);

/// A place in a queue. Whoever drops it lets the next one go on.
pub(crate) struct Ticket {
    before: Option<oneshot::Receiver<()>>,
    _end: oneshot::Sender<()>,
}

impl VmQueues {
    /// Takes the last place in a queue.
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
    /// Waits until everybody before has gone. Whoever gives up waiting still has the place.
    pub(crate) async fn comes(&mut self) {
        if let Some(before) = &mut self.before {
            // Its sender is dropped when that turn ends; nothing is ever sent.
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
    async fn turns_come_in_the_order_in_which_they_were_taken() {
        let turns = VmQueues::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let taken: Vec<_> = (0..5).map(|_| turns.take("web")).collect();
        // Begun backwards, so that only the queue decides.
        let tasks = taken.into_iter().enumerate().rev().map(|(number, mut turn)| {
            let order = order.clone();
            tokio::spawn(async move {
                turn.comes().await;
                order.lock().unwrap().push(number);
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn another_queue_waits_for_nobody_and_old_ones_are_forgotten() {
        let turns = VmQueues::default();
        let _held = turns.take("web");
        turns.take("other").comes().await;
        for number in 0..2 * MANY {
            turns.take(&number.to_string()).comes().await;
        }
        assert!(turns.0.lock().unwrap().len() <= MANY + 1);
        assert!(turns.0.lock().unwrap().contains_key("web"));
    }
}
