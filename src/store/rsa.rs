//! Fast generation of RSA key pairs: several threads search for primes, and the first two make the key. Does no I/O.
//!
//! This is pure Rust: the primality tests of `crypto-primes` on `crypto-bigint`. For 4096 bits, `benches/keygen.rs`
//! measures about half the time of `ssh-keygen`, while the second core is busy with other work. The `rsa` crate 0.9, on
//! which ssh-key depends, takes several times as long. No C code is needed.

use std::{
    num::NonZeroU32,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use crypto_bigint::{
    BoxedUint, ConcatenatingMul, CtAssign, Lcm, Limb, MontyForm, MontyMultiplier, NonZero, Odd, Resize,
    modular::{BoxedMontyForm, BoxedMontyParams},
};
use crypto_primes::hazmat::{MillerRabin, SetBits, minimum_mr_iterations, random_odd_integer};
use getrandom::{
    SysRng,
    rand_core::{TryRng, UnwrapErr},
};
use ssh_key::{
    Mpint,
    private::{RsaKeypair, RsaPrivateKey},
    public::RsaPublicKey,
};
use zeroize::Zeroizing;

use crate::{
    cancel::Cancel,
    error::{Error, Result},
};

/// The usual public exponent. It is a prime, and the smallest that FIPS 186-5 allows.
const EXPONENT: u32 = 65537;

/// Candidates have no factor below this. The sieve of `crypto-primes` ends at 17863 and leaves a quarter more to test.
const SIEVE_LIMIT: u32 = 1 << 18;

/// How many odd numbers after a random one are candidates: over 40 times the usual distance of primes of 2048 bits.
const WINDOW: u32 = 1 << 15;

/// The probability that a composite passes as a prime is below 2 to the minus this (FIPS 186-5, table B.1).
const CERTAINTY: u32 = 128;

/// The primes must differ within their first 100 bits (FIPS 186-5, appendix A.1.3), else n is easily factored.
const DIFFERENT_BITS: u32 = 100;

/// The name of the search threads.
const THREAD: &str = "prime search";

/// The niceness of a background search. 19 would starve it on a busy machine.
const BACKGROUND_NICENESS: i32 = 10;

/// How much of the machine a search for primes may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// Every processor. For a process that only generates a key.
    #[default]
    Full,
    /// Half of the processors, at a low priority. For a process that does other work at the same time.
    Background,
}

impl Effort {
    fn threads(self) -> usize {
        let all = thread::available_parallelism().map_or(1, usize::from);
        match self {
            Self::Full => all,
            Self::Background => (all / 2).max(1),
        }
    }

    /// Sets the priority of the current thread.
    fn set_priority(self) {
        if self == Self::Background {
            // On Linux, unlike in POSIX, this affects one thread. If it fails, the search only has a higher priority.
            let _ = rustix::process::nice(BACKGROUND_NICENESS);
        }
    }
}

/// A prime that is wiped when it is dropped. The copies that the arithmetic makes during a test cannot be wiped.
type Prime = Zeroizing<BoxedUint>;

/// Generates a key pair whose modulus has exactly `bits` bits, an even number. Fails if it is cancelled.
pub fn generate(bits: u32, effort: Effort, cancel: &Cancel) -> Result<RsaKeypair> {
    // The search has no way to return this error. Once the kernel's generator has worked, it does not fail.
    SysRng
        .try_next_u32()
        .map_err(|error| Error::internal("cannot get random numbers from the operating system").because(error))?;
    let bits = NonZeroU32::new(bits / 2).ok_or_else(|| Error::internal("an RSA key needs at least two bits"))?;
    let (p, q) = two_primes(bits, effort, cancel)?;
    assemble(&p, &q).ok_or_else(|| Error::internal("cannot assemble an RSA key from its primes"))
}

/// Lets each thread search until two primes are found.
///
/// The time to find one is random, so no thread waits for another one's result.
fn two_primes(bits: NonZeroU32, effort: Effort, cancel: &Cancel) -> Result<(Prime, Prime)> {
    let enough = AtomicBool::new(false);
    let (found, primes) = mpsc::channel();
    let small = small_primes(SIEVE_LIMIT);
    let pair = thread::scope(|scope| {
        for _ in 0..effort.threads() {
            let (found, small) = (found.clone(), &small);
            let is_done = || enough.load(Ordering::Relaxed) || cancel.check().is_err();
            let work = move || {
                effort.set_priority();
                search(bits, small, &found, is_done);
            };
            // With fewer threads the search is slower. With none, `first_pair` returns `None`.
            let _ = thread::Builder::new().name(THREAD.to_owned()).spawn_scoped(scope, work);
        }
        // Without this, the receiver would wait forever if every search panicked.
        drop(found);
        let pair = first_pair(bits, &primes);
        enough.store(true, Ordering::Relaxed);
        pair
    });
    cancel.check()?;
    pair.ok_or_else(|| Error::internal(format!("the search for primes of {bits} bits ended early")))
}

fn first_pair(bits: NonZeroU32, primes: &Receiver<Prime>) -> Option<(Prime, Prime)> {
    let first = primes.recv().ok()?;
    let second = primes.iter().find(|second| are_far_apart(bits.get(), &first, second))?;
    Some((first, second))
}

/// Sends primes until `is_done`, which is checked before each candidate: every fraction of a second.
fn search(bits: NonZeroU32, small: &[u32], found: &Sender<Prime>, is_done: impl Fn() -> bool) {
    let mut rng = UnwrapErr(SysRng);
    // With the two highest bits set in both primes, the modulus is never a bit too short. Each search starts at a new
    // random number, so that no prime is the neighbor of the one before.
    while let Ok(start) = random_odd_integer::<BoxedUint, _>(&mut rng, bits, SetBits::TwoMsb) {
        // Wiped as well, because the prime is close to it.
        let start = Zeroizing::new(start);
        for candidate in candidates(&start, small) {
            if is_done() {
                return;
            }
            if is_usable(&candidate, &mut rng) {
                if found.send(Zeroizing::new(candidate.get())).is_err() {
                    return;
                }
                break;
            }
        }
    }
}

/// Returns the odd primes below a limit.
fn small_primes(limit: u32) -> Vec<u32> {
    let mut is_composite = vec![false; limit as usize];
    let mut primes = Vec::new();
    for number in (3..limit).step_by(2) {
        if !is_composite[number as usize] {
            primes.push(number);
            cross_out(&mut is_composite, number, number);
        }
    }
    primes
}

/// Returns the odd numbers from `start` on that no small prime divides.
fn candidates(start: &Odd<BoxedUint>, small: &[u32]) -> impl Iterator<Item = Odd<BoxedUint>> {
    let mut is_composite = vec![false; WINDOW as usize];
    for &prime in small {
        let distance = (prime - remainder(start, prime)) % prime;
        // Counted in steps of two. A multiple at an odd distance is even; the one after it is odd.
        let steps = u32::midpoint(distance, distance % 2 * prime);
        cross_out(&mut is_composite, steps, prime);
    }
    let number = |step| Odd::new(start.wrapping_add(BoxedUint::from(2 * step))).into_option();
    (0..WINDOW).zip(is_composite).filter(|(_, is_composite)| !is_composite).filter_map(move |(step, _)| number(step))
}

fn cross_out(is_composite: &mut [bool], from: u32, step: u32) {
    is_composite.iter_mut().skip(from as usize).step_by(step as usize).for_each(|number| *number = true);
}

fn remainder(number: &BoxedUint, divisor: u32) -> u32 {
    let divisor = NonZero::new(Limb::from_u32(divisor)).into_option();
    divisor.and_then(|divisor| number.rem_limb(divisor).0.try_into().ok()).unwrap_or_default()
}

/// Returns whether a candidate is prime and, minus one, coprime to the exponent.
fn is_usable(candidate: &Odd<BoxedUint>, rng: &mut UnwrapErr<SysRng>) -> bool {
    let Some(rounds) = minimum_mr_iterations(candidate.bits(), CERTAINTY) else {
        return false;
    };
    if remainder(candidate, EXPONENT) == 1 || !passes_fermat(candidate) {
        return false;
    }
    let test = MillerRabin::new(candidate.clone());
    (0..rounds).all(|_| !test.test_random_base(rng).is_composite())
}

/// Returns whether two to the power of the candidate minus one is one, modulo the candidate.
///
/// This excludes nearly every composite, and takes a fifth less time than a round with another base, because a
/// multiplication by two is an addition.
fn passes_fermat(candidate: &Odd<BoxedUint>) -> bool {
    let params = BoxedMontyParams::new_vartime(candidate.clone());
    let mut square = <BoxedMontyForm as MontyForm>::Multiplier::from(&params);
    let one = BoxedMontyForm::one(&params);
    let mut power = one.double();
    for bit in (1..candidate.bits() - 1).rev() {
        square.square_assign(&mut power);
        let doubled = power.double();
        power.as_montgomery_mut().ct_assign(doubled.as_montgomery(), candidate.bit(bit));
    }
    power.square() == one
}

fn are_far_apart(bits: u32, p: &BoxedUint, q: &BoxedUint) -> bool {
    let (large, small) = if p > q { (p, q) } else { (q, p) };
    Zeroizing::new(large.wrapping_sub(small)).bits() > bits - DIFFERENT_BITS
}

/// Computes the other numbers of an OpenSSH private key: n, d and the inverse of q.
fn assemble(p: &Prime, q: &Prime) -> Option<RsaKeypair> {
    // OpenSSL expects p to be the larger one.
    let (p, q): (&BoxedUint, &BoxedUint) = if **p > **q { (p, q) } else { (q, p) };
    let one = BoxedUint::one();
    let p_minus_1 = Zeroizing::new(p.wrapping_sub(&one));
    let q_minus_1 = Zeroizing::new(q.wrapping_sub(&one));
    let period = Zeroizing::new(NonZero::new(p_minus_1.lcm(&*q_minus_1)).into_option()?);
    let e = BoxedUint::from(EXPONENT).resize(period.bits_precision());
    let d = Zeroizing::new(e.invert_mod(&period).into_option()?);
    let iqmp = Zeroizing::new(q.invert_odd_mod(&Zeroizing::new(Odd::new(p.clone()).into_option()?)).into_option()?);
    Some(RsaKeypair {
        public: RsaPublicKey { n: mpint(&p.concatenating_mul(q))?, e: mpint(&e)? },
        private: RsaPrivateKey { d: mpint(&d)?, iqmp: mpint(&iqmp)?, p: mpint(p)?, q: mpint(q)? },
    })
}

fn mpint(number: &BoxedUint) -> Option<Mpint> {
    Mpint::from_positive_bytes(&Zeroizing::new(number.to_be_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use crypto_primes::{Flavor, is_prime};

    use super::*;

    fn number(mpint: &Mpint) -> BoxedUint {
        BoxedUint::from_be_slice_vartime(mpint.as_positive_bytes().unwrap())
    }

    #[test]
    fn the_numbers_of_a_key_are_consistent() {
        // Many small keys, because a fault that makes the modulus a bit too short shows only in some of them.
        for bits in [512; 20].into_iter().chain([2048, 2176, 3072]) {
            let effort = if bits == 512 { Effort::Background } else { Effort::Full };
            let key = generate(bits, effort, &Cancel::default()).unwrap();
            let [p, q, d] = [&key.private.p, &key.private.q, &key.private.d].map(number);
            let n = number(&key.public.n);
            assert_eq!(n.bits(), bits);
            assert_eq!(n, p.concatenating_mul(&q));
            assert!(p > q && is_prime(Flavor::Any, &p) && is_prime(Flavor::Any, &q));
            assert_eq!(number(&key.public.e), BoxedUint::from(EXPONENT));
            let ed = d.concatenating_mul(&BoxedUint::from(EXPONENT));
            for prime in [&p, &q] {
                let order = NonZero::new(prime.wrapping_sub(BoxedUint::one())).unwrap();
                assert_eq!(ed.rem_vartime(&order), BoxedUint::one());
            }
            let inverse = number(&key.private.iqmp).concatenating_mul(&q);
            assert_eq!(inverse.rem_vartime(&NonZero::new(p).unwrap()), BoxedUint::one());
        }
    }

    #[test]
    fn close_primes_are_refused_as_a_pair() {
        let one = BoxedUint::one_with_precision(1024);
        let low = one.shl_vartime(1023).unwrap().wrapping_add(one.shl_vartime(1000).unwrap());
        let above = |shift| low.wrapping_add(one.shl_vartime(shift).unwrap());
        assert!(!are_far_apart(1024, &low, &low));
        assert!(!are_far_apart(1024, &low, &above(923)));
        assert!(are_far_apart(1024, &low, &above(924)));
        assert!(are_far_apart(1024, &above(924), &low));
    }

    #[test]
    fn candidates_are_odd_and_have_no_small_factor() {
        let small = small_primes(100);
        assert_eq!((small.len(), small[0], small[23]), (24, 3, 97));
        for start in [1_000_001_u64, 3 * 5 * 7 * 11, u64::MAX - 200_000] {
            let start = Odd::new(BoxedUint::from(start)).unwrap();
            let odd = (0..WINDOW).map(|step| start.wrapping_add(BoxedUint::from(2 * step)));
            let expected = odd.filter(|number| small.iter().all(|&prime| remainder(number, prime) != 0));
            assert!(candidates(&start, &small).map(Odd::get).eq(expected));
        }
    }

    #[test]
    fn the_fermat_test_accepts_primes_and_its_known_pseudoprimes() {
        for number in (5_u64..3000).step_by(2) {
            let power = (1..number).fold(1, |power, _| power * 2 % number);
            let candidate = Odd::new(BoxedUint::from(number)).unwrap();
            assert_eq!(passes_fermat(&candidate), power == 1, "{number}");
        }
    }

    #[test]
    fn composites_and_primes_that_share_a_factor_with_the_exponent_are_unusable() {
        let mut rng = UnwrapErr(SysRng);
        let mersenne =
            |bits: u32| Odd::new(BoxedUint::max(bits).shr_vartime(bits.next_multiple_of(64) - bits).unwrap()).unwrap();
        assert!(is_usable(&mersenne(521), &mut rng));
        assert!(!is_usable(&mersenne(523), &mut rng));
        // The first prime of the form 2 · 65537 · k + 1 with 512 bits.
        let mut k = BoxedUint::one_with_precision(512).shl_vartime(494).unwrap();
        let one = BoxedUint::one_with_precision(512);
        let prime = loop {
            let candidate = k.wrapping_mul(BoxedUint::from(EXPONENT)).shl_vartime(1).unwrap().wrapping_add(&one);
            if is_prime(Flavor::Any, &candidate) {
                break candidate;
            }
            k = k.wrapping_add(&one);
        };
        assert!(!is_usable(&Odd::new(prime).unwrap(), &mut rng));
    }
}
