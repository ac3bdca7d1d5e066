//! The catalogue: which cloud images there are, where their publishers have them, and what proves them.
//!
//! Pure: text in, facts out. What is fetched is fetched elsewhere.
