"""Train a small network on handwritten digits, with a checkpoint after every epoch."""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import replicate


def load_data():
    """Return images and digits to train on, then images and digits to test with; the same ones every time."""
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images / 16, digits, test_size=0.25, random_state=0)
    return train_x, train_y, test_x, test_y


def forward(model, x):
    """Return the hidden layer, and the probability of each digit."""
    hidden = np.maximum(0, x @ model["w1"] + model["b1"])
    scores = hidden @ model["w2"] + model["b2"]
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, exps / exps.sum(axis=1, keepdims=True)


def accuracy(model, x, y):
    return float((forward(model, x)[1].argmax(axis=1) == y).mean())


def gradients(model, x, y):
    """Return the cross-entropy loss and its gradient for every weight."""
    hidden, probabilities = forward(model, x)
    loss = -np.log(probabilities[np.arange(len(y)), y]).mean()
    d_scores = (probabilities - np.eye(10)[y]) / len(y)
    d_hidden = d_scores @ model["w2"].T * (hidden > 0)
    grads = {"w1": x.T @ d_hidden, "b1": d_hidden.sum(axis=0), "w2": hidden.T @ d_scores, "b2": d_scores.sum(axis=0)}
    return loss, grads


def train(args):
    replicate.init(params=vars(args))
    train_x, train_y, test_x, test_y = load_data()
    rng = np.random.default_rng(args.seed)
    shapes = {"w1": (64, args.hidden), "b1": args.hidden, "w2": (args.hidden, 10), "b2": 10}
    model = {name: rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    velocity = {name: np.zeros(shape) for name, shape in shapes.items()}
    for epoch in range(args.epochs):
        losses = []
        for batch in np.array_split(rng.permutation(len(train_x)), len(train_x) // 32):
            loss, grads = gradients(model, train_x[batch], train_y[batch])
            losses.append(loss)
            for name in model:
                velocity[name] = 0.9 * velocity[name] - args.lr * grads[name]
                model[name] += velocity[name]
        np.savez("model.npz", **model)
        replicate.checkpoint(
            step=epoch,
            metrics={"loss": float(np.mean(losses)), "accuracy": accuracy(model, test_x, test_y)},
            primary_metric=("accuracy", "maximize"),
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())
