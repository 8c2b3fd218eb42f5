//! Runs as a picture: a panel for the loss, smaller ones for what else there is; one run, or several over one another.

use plotters::coord::Shift;
use plotters::drawing::DrawingArea;
use plotters::prelude::*;

use crate::run::Run;

mod chart;
mod panel;
mod pen;
mod raster;

pub use panel::Topic;
use panel::{Panel, panels};
use pen::{FAINT_INK, INK, Pen, WHITE_PAPER, colour};

/// Why a picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the picture cannot be drawn: {0}")]
pub struct Undrawable(String);

/// A job to draw.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// What the picture calls it.
    pub name: String,
    /// Its numbers.
    pub run: Run,
}

/// What is to be drawn.
#[derive(Debug)]
pub struct Picture {
    title: String,
    subtitle: String,
    /// Names of the jobs, where there are several.
    names: Vec<String>,
    panels: Vec<Panel>,
}

/// Sizes in pixels.
const WIDTH: i32 = 1200;
const HEAD: i32 = 92;
const NAMES_LINE: i32 = 24;
const LARGE: i32 = 460;
const SMALL: i32 = 280;
const FOOT: i32 = 16;
/// Small panels beside one another.
const COLUMNS: usize = 3;
/// Longest name that is drawn, in characters.
const MAX_NAME: usize = 60;

impl Picture {
    /// A picture of jobs; of some topics, or, where there are none, of all that the jobs have numbers for. None when that is
    /// nothing.
    pub fn of(title: &str, subtitle: &str, jobs: &[Subject], topics: &[Topic]) -> Option<Picture> {
        let panels = panels(jobs, topics);
        let names = match jobs {
            [_] => Vec::new(),
            several => several.iter().map(|job| shortened(&job.name)).collect(),
        };
        let (title, subtitle) = (shortened(title), subtitle.to_owned());
        (!panels.is_empty()).then_some(Picture { title, subtitle, names, panels })
    }

    /// The picture as PNG.
    pub fn png(&self) -> Result<Vec<u8>, Undrawable> {
        let size = self.size();
        let pen = Pen::large()?;
        let mut canvas = raster::Canvas::new(size);
        let large = canvas.size();
        self.draw(BitMapBackend::with_buffer(canvas.bytes(), large), pen)?;
        canvas.png()
    }

    /// The picture as SVG.
    pub fn svg(&self) -> Result<String, Undrawable> {
        let mut text = String::new();
        let pen = Pen::exact()?;
        self.draw(SVGBackend::with_string(&mut text, self.size()), pen)?;
        Ok(text)
    }

    fn size(&self) -> (u32, u32) {
        let rows = self.panels.len().saturating_sub(1).div_ceil(COLUMNS) as i32;
        (WIDTH as u32, (self.head() + LARGE + rows * SMALL + FOOT) as u32)
    }

    fn head(&self) -> i32 {
        HEAD + NAMES_LINE * (self.names.len().div_ceil(COLUMNS) as i32)
    }

    fn draw<B: DrawingBackend>(&self, backend: B, pen: Pen) -> Result<(), Undrawable>
    where
        B::ErrorType: 'static,
    {
        let undrawable = |error: Box<dyn std::error::Error>| Undrawable(error.to_string());
        self.draw_all(&backend.into_drawing_area(), pen).map_err(undrawable)
    }

    fn draw_all<B: DrawingBackend>(&self, paper: &DrawingArea<B, Shift>, pen: Pen) -> Drawn
    where
        B::ErrorType: 'static,
    {
        paper.fill(&WHITE_PAPER)?;
        paper.draw(&Text::new(self.title.clone(), (pen.px(24), pen.px(20)), pen.bold(24).color(&INK)))?;
        paper.draw(&Text::new(self.subtitle.clone(), (pen.px(24), pen.px(56)), pen.regular(14).color(&FAINT_INK)))?;
        self.draw_names(paper, pen)?;
        let (_, panels) = paper.split_vertically(pen.px(self.head()));
        let (large, small) = panels.split_vertically(pen.px(LARGE));
        let Some((first, others)) = self.panels.split_first() else { return Ok(()) };
        chart::draw(first, &large, pen, true)?;
        let rows = others.len().div_ceil(COLUMNS);
        if rows > 0 {
            let (small, _) = small.split_vertically(pen.px(rows as i32 * SMALL));
            for (panel, area) in others.iter().zip(small.split_evenly((rows, COLUMNS))) {
                chart::draw(panel, &area, pen, false)?;
            }
        }
        paper.present()?;
        Ok(())
    }

    /// Which colour is which job.
    fn draw_names<B: DrawingBackend>(&self, paper: &DrawingArea<B, Shift>, pen: Pen) -> Drawn
    where
        B::ErrorType: 'static,
    {
        for (place, name) in self.names.iter().enumerate() {
            let x = 24 + (WIDTH - 48) / COLUMNS as i32 * (place % COLUMNS) as i32;
            let y = HEAD - 6 + NAMES_LINE * (place / COLUMNS) as i32;
            let swatch = [(pen.px(x), pen.px(y + 4)), (pen.px(x + 22), pen.px(y + 12))];
            paper.draw(&Rectangle::new(swatch, colour(place).filled()))?;
            paper.draw(&Text::new(name.clone(), (pen.px(x + 30), pen.px(y)), pen.regular(14).color(&INK)))?;
        }
        Ok(())
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn shortened(name: &str) -> String {
    let plain = name.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    match name.chars().count() > MAX_NAME {
        true => plain.take(MAX_NAME - 1).chain(['…']).collect(),
        false => plain.collect(),
    }
}

#[cfg(test)]
mod tests;
