//! `model`: base models of the server.

use chrono::Local;
use hone_client::{Client, v1};

use crate::args::ModelCommand;
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
            let list = async |page_size, page_token| {
                let answer = client.list_models(v1::ListModelsRequest { page_size, page_token }).await?;
                Ok((answer.models, answer.next_page_token))
            };
            let models = page.all(list).await?;
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
