//! `model`: base models of the server.

use chrono::Local;
use hone_client::{Client, v1};

use crate::args::{ModelCommand, Page};
use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::{ago, bytes, date, printable};
use crate::locate;
use crate::output::Output;
use crate::table::Table;

pub(crate) async fn run(command: ModelCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        ModelCommand::Upload { path, name, reuse } => {
            let model = locate::model_at(&path, name, reuse, client, out).await?;
            out.show("Model", &model, || model.model_id.clone())?;
        }
        ModelCommand::List(page) => {
            let models = list(client, page).await?;
            out.show_all("Model", &models, || table(&models).text("no models"))?;
        }
        ModelCommand::Get { model } => {
            let model = client.get_model(&model).await?;
            out.show("Model", &model, || text(&model))?;
        }
        ModelCommand::Delete { models } => {
            for model in models {
                client.delete_model(&model).await?;
                out.deleted(&model)?;
            }
        }
    }
    Ok(Ending::Done)
}

async fn list(client: &Client, page: Page) -> Result<Vec<v1::Model>, Failure> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let page_size = page.next_size(all.len());
        let answer = client.list_models(v1::ListModelsRequest { page_size, page_token }).await?;
        all.extend(answer.models);
        page_token = answer.next_page_token;
        if page.is_full(all.len()) || page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn table(models: &[v1::Model]) -> Table {
    let mut table = Table::new(&["MODEL", "NAME", "SIZE", "FILES", "CREATED"], &[2, 3]);
    let now = Local::now();
    for model in models {
        table.row([
            model.model_id.clone(),
            printable(&model.display_name),
            bytes(model.size_bytes),
            model.files.len().to_string(),
            model.create_time.as_ref().map(|time| ago(time, now)).unwrap_or_default(),
        ]);
    }
    table
}

fn text(model: &v1::Model) -> String {
    let mut files = Table::new(&["FILE", "SIZE", "SHA-256"], &[1]);
    for file in &model.files {
        files.row([printable(&file.name), bytes(file.size_bytes), file.sha256.clone()]);
    }
    format!(
        "{}  {}\nsize     {}\ncreated  {}\nat       {}\n\n{}",
        model.model_id,
        printable(&model.display_name),
        bytes(model.size_bytes),
        model.create_time.as_ref().map(date).unwrap_or_default(),
        printable(&model.uri),
        files.text("no files"),
    )
}
