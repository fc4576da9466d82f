// Node's cluster as its documentation has it, beside `ours.rs`: the same orders on standard input, the same lines on standard output.
//
// WORKERS, POLICY (`rr` or `none`), MAX_CONNECTIONS (none), EARLY (not empty: ten messages to each worker at its fork, which
// subscribes 200 ms after its start). Ends when standard input does.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');

const say = (line) => process.stdout.write(`${line}\n`);
const early = Boolean(process.env.EARLY);

if (cluster.isPrimary) primary();
else worker();

function primary() {
  cluster.schedulingPolicy = process.env.POLICY === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
  let notices = 0;
  const received = new Map();
  const current = []; // those that listen, the oldest first
  const fork = () => {
    const it = cluster.fork();
    received.set(it.id, 0);
    say(`worker ${it.id} pid ${it.process.pid}`);
    if (early) for (let n = 0; n < 10; n += 1) it.send('early');
    it.on('message', (message) => {
      if (message.cmd === 'notifyRequest') notices += 1;
      else received.set(it.id, received.get(it.id) + 1);
    });
    it.once('listening', (address) => {
      current.push(it);
      say(`listening ${it.id} 127.0.0.1:${address.port}`);
    });
    it.once('disconnect', () => say(`disconnect ${it.id}`));
    it.once('exit', (code, signal) => say(`exit ${it.id} ${code} ${signal} ${received.get(it.id)}`));
    return it;
  };
  const obey = ([order, id, ...rest]) => {
    const one = cluster.workers[id];
    switch (order) {
      case 'fork': fork(); break;
      case 'replace': { // as is usual: the new one listens, then the old one is told to leave
        const old = current.shift();
        fork().once('listening', () => { old.disconnect(); say('replaced'); });
        break;
      }
      case 'disconnect': one.disconnect(); say('told'); break;
      case 'disconnect-twice': one.disconnect(); one.disconnect(); say('told'); break;
      case 'disconnect-all': cluster.disconnect(() => say('all disconnected')); break;
      case 'send-dead': {
        one.once('exit', () => {
          const took = one.send('anybody there?');
          setTimeout(() => say(`sent ${took}`), 100);
        });
        one.process.kill('SIGKILL');
        break;
      }
      case 'tell': one.send(rest.join(' ')); break;
      case 'notices': say(`notices ${notices}`); break;
    }
  };
  require('node:readline').createInterface({ input: process.stdin })
    .on('line', (line) => obey(line.split(' ')))
    .on('close', () => process.exit(0));
  for (let n = 0; n < Number(process.env.WORKERS); n += 1) fork();
}

function worker() {
  const id = String(cluster.worker.id);
  const hello = (response) => {
    response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': 11, 'X-Worker': id });
    response.end('hello world');
  };
  const server = http.createServer((request, response) => {
    const url = new URL(request.url, 'http://here');
    if (url.pathname === '/slow') setTimeout(hello, Number(url.searchParams.get('ms')), response);
    else hello(response);
    if (url.pathname === '/notify') process.send({ cmd: 'notifyRequest' });
  });
  server.keepAliveTimeout = 75_000;
  if (process.env.MAX_CONNECTIONS) server.maxConnections = Number(process.env.MAX_CONNECTIONS);
  server.listen(0, '127.0.0.1'); // one port for all of them

  const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms); // blocks the loop
  const block = (ms, free) => { sleep(ms); setTimeout(block, free, ms, free); };
  let heard = 0;
  const hear = (text) => {
    heard += 1;
    const [order, ...rest] = text.split(' ');
    if (order === 'block') block(Number(rest[0]), Number(rest[1]));
    if (order === 'last-words') {
      for (let n = 0; n < 3; n += 1) process.send('x'.repeat(1 << 20));
      if (rest[0] === 'exit') process.exit(0);
      else cluster.worker.disconnect();
    }
  };
  if (!early) process.on('message', hear);
  else {
    setTimeout(() => process.on('message', hear), 200);
    setTimeout(() => say(`heard ${heard}`), 500);
  }
}
