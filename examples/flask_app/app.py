"""The document's small Flask application, on a modern Flask: users with a count of their views.

pip install 'everfresh[flask]'
flask --app examples/flask_app/app.py run
"""

import os
import random

import flask
from flask import Flask, redirect, render_template_string
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from everfresh.orm import CacheableMixin, query_callable, regions
from everfresh.orm.flask import Everfresh, FlaskCachingQuery

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE_URL", "sqlite:///test.db")
app.config["EVERFRESH"] = {"server_timing": True}


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(app, model_class=Base)

FIRST_NAMES = ["Ada", "Barbara", "Edsger", "Frances", "Grace", "Ken", "Łukasz", "Tony"]
LAST_NAMES = ["Allen", "Dijkstra", "Hoare", "Hopper", "Liskov", "Lovelace", "Thompson"]
DOMAINS = ["example.com", "example.net", "example.org"]


class User(CacheableMixin, db.Model):
    cache_label = "default"
    cache_regions = regions
    query_class = query_callable(regions, FlaskCachingQuery)

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(db.String(80))
    email: Mapped[str] = mapped_column(db.String(120))
    views: Mapped[int] = mapped_column(default=0)

    def __repr__(self) -> str:
        return f"<User {self.username!r}>"


with app.app_context():
    db.create_all()
everfresh = Everfresh(app, db)
regions["default"] = everfresh.cache  # or a dogpile.cache region, as the document has it

LIST = """<!doctype html><title>Users</title>
<table>{% for user in users %}
<tr><td>{{ user.username }}</td><td>{{ user.email }}</td>
<td><a class="update" href="/update/{{ user.id }}/">update</a></td>
<td><a class="view" href="/{{ user.id }}/">view ({{ user.views }})</a></td></tr>
{% endfor %}</table>"""
ONE = """<!doctype html><title>{{ user.username }}</title>
<h1>{{ user.username }}</h1><p>email: {{ user.email }}<br>views: <b>{{ user.views }}</b></p>
<a href="/">back</a>"""


@app.route("/")
def all_user():
    # the cached alternative to User.query.all(); also possible:
    # User.query.options(User.cache.from_cache("my cache")), dropped by User.cache.flush("my cache")
    return render_template_string(LIST, users=User.cache.filter())


@app.route("/views/<int:views>/")
def user_with_x_views(views):
    return render_template_string(LIST, users=User.cache.filter(views=views))


@app.route("/update/<int:user_id>/")
def update_user(user_id):
    # committing outdates the lists of the old and of the new count of views, the list of all
    # users, and the user
    user = User.cache.get(user_id) or flask.abort(404)
    user.views = user.views + 1
    db.session.commit()
    return render_template_string(ONE, user=user)


@app.route("/<int:user_id>/")
def view_user(user_id):
    user = User.cache.get(user_id) or flask.abort(404)
    return render_template_string(ONE, user=user)


def random_user():
    first, last = random.choice(FIRST_NAMES), random.choice(LAST_NAMES)
    email = f"{first}.{last}@{random.choice(DOMAINS)}"
    return User(username=f"{first}_{last}", email=email)


@app.route("/init_db")
def init_db():
    db.session.add_all(random_user() for _ in range(50))
    db.session.commit()
    return redirect("/")
