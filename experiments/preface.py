"""What stands in the document of all experiments before its numbers."""

ABOUT = """\
*Introspection: Accelerating Neural Network Training by Learning Weight Evolution* (Sinha, Sarkar,
Mukherjee and Krishnamurthy, ICLR 2017) trains a small network to forecast a weight's value at step
2t from its values at steps t, 0.7t, 0.4t and 0, on the weight history of one run. Other networks
then put such forecasts in the place of their weights, a few times in their training: they **jump**.
The paper reports that they reach an accuracy in fewer steps, and end more accurate. Here its
experiments are run again, beside what a careful reader would ask for: a tuned learning-rate
schedule, weight averaging, and simpler forecasts. The forecaster was fitted on MNIST images that
most of these experiments train on, which may favour jumps.
"""

HOW = """\
Arms start from the same initial weights and see the same batches; they differ in nothing but what
they are compared for. **plain** is the training that the source describes, **jumps** the same with
jumps by the shipped forecaster `introspection-mnist`, which was fitted to one run of another
network, N0, on the same MNIST images. What a careful reader would ask for stands beside them.
**averaging** is a moving average of plain's weights, evaluated beside it: up to 2,000 updates over
the run, each with 0.99 of what was there. **one-cycle** is PyTorch's `OneCycleLR`: the learning
rate rises to its peak in three tenths of the run and falls along a cosine, and momentum stays. Its
peak was chosen among 1, 3, 10 and 30 times the paper's learning rate, and on to 100 and more while
the largest was the best, by the accuracy on a fifth of the training images after a tenth of the
length, with one seed and without jumps. **one-cycle + jumps** is both: its jump points were chosen
for another schedule, and its peak without jumps, so that better ones may exist for both together.
Plain and jumps have the paper's settings and are not tuned. The tuning takes four tenths of a run
or more, which no column has.

Accuracies and losses are of the images that arms are evaluated on. They are running medians over
four evaluations, the last one and the three before it, or as many as there are, so that a lucky one
is not enough; a level is reached at the last of the four. A run that diverged goes on with its last
evaluation. Numbers are medians over the seeds, with their range in parentheses; a gain is the
median of the seeds' differences, and not the difference of medians. A level that a seed never
reached counts as later than any step. An arm that is exactly as good as plain reaches plain's best
accuracy in about every other seed only: best is the luckiest moment of the plain run. Processor
seconds include jumps, and no evaluations; of plain they include the moving average, and with seed 0
those of plain and jumps include recording. Seconds of forecasts are by the clock, snapshots
included, on a machine that did other work too.

One arm is called better or worse than another if its median gain over it, in runs of the same seed,
is larger than the range of the gains over the seeds, from the least to the most. Of steps and
losses, the gain is the share that is saved of the larger one's (never, or not finite, is -1), so
that what is worse for one is as large as what is better for the other; tables show it as a share of
plain's. It is a coarse rule: with three seeds, chance alone gets there about once in ten times,
with two once in three. A claim of the paper is *reproduced* if our direction is the paper's, *not
reproduced* if it is the other one, or if plain reached a level that no seed of the arm did; it
shows *no difference beyond the range over seeds* otherwise. Accuracies of the paper that are less
than 0.1 points apart count as equal. Where plain reached a level before the first jump, jumps are
the same run until then and decide nothing: such seeds are left out. This is about the direction
only: how much was gained stands beside it, and where our plain run is more than a point from the
paper's, that too. Of plain itself, *ours is higher* or *lower* if the paper's number is outside the
range of our seeds. The rule was chosen after some of these results had been seen, as runs of a seed
are pairs; a stricter one, by which the ranges of two arms must not overlap, would find fewer
differences, as the ranges in the tables show. Many comparisons are made, and none is corrected for
that.
"""

QUICK = """\
These ran at a small part of their length, and claims, tables and curves are left out: this shows
that they run, and says nothing about accuracy.
"""
