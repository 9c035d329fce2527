"""A server for OpenAI's API: app.py has the routes, worker.py the thread in which the model runs."""
